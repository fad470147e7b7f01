"""From a job file to what reconcile has to know of it."""

import hashlib
import json

from controller.observe import JobView, StagePlan
from k8s import names
from k8s.spec import PanguJob
from k8s.stages import Stage, plan


def job_view(
    job: PanguJob, *, generation: int = 1, created_at: int = 0, backoff_seconds: float = 10.0
) -> JobView:
    """The view of a job.

    Args:
        job: a checked job.
        generation: counts the changes of its spec.
        created_at: unix seconds.
        backoff_seconds: wait before the first charged retry.
    """
    spec = job.spec
    return JobView(
        name=job.name,
        uid=job.uid,
        stages=tuple(_stage_plan(stage) for stage in plan(job)),
        created_at=created_at,
        namespace=job.metadata.namespace or "",
        generation=generation,
        suspend=spec.suspend,
        cancel=spec.cancel,
        rerun_from=spec.rerun.from_ if spec.rerun else "",
        rerun_number=spec.rerun.number if spec.rerun else 0,
        restart_limit=spec.train.restarts.limit,
        restart_window_seconds=spec.train.restarts.window_seconds,
        pending_seconds=spec.limits.pending_seconds,
        deadline_seconds=spec.limits.deadline_seconds,
        gpu_hours=spec.limits.gpu_hours,
        surplus_seconds=spec.limits.surplus_seconds,
        grace_seconds=spec.pods_for(names.TRAIN).grace_period,
        backoff_seconds=backoff_seconds,
        min_nodes=spec.train.nodes.min,
        max_nodes=spec.train.nodes.max,
        processes_per_node=spec.train.nodes.processes_per_node,
        is_queued=spec.queue is not None,
        notifies=spec.notify is not None,
        ttl_seconds=spec.ttl_seconds_after_finished,
        claim=spec.workspace.claim_name or names.workspace_claim(job.name),
        makes_claim=spec.workspace.claim_name is None,
        needs_many=spec.spreads,
        serves=spec.serve is not None,
    )


def settings_hash(stage: Stage) -> str:
    """SHA-256 of all that a stage's pods are told, but for whose run it is and which attempt."""
    settings = {k: v for k, v in stage.config(1).dump().items() if k != "run"}
    text = json.dumps(settings, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _stage_plan(stage: Stage) -> StagePlan:
    spec = stage.job.spec
    resources = spec.pods_for(stage.name).resources
    gpus = resources.gpus if resources else 0
    if not stage.is_training:
        return StagePlan(stage.name, settings_hash(stage), gpus=gpus)
    sizes = spec.model.sizes
    length = spec.train.sequence_length or (sizes.sequence_length if sizes else None)
    return StagePlan(
        stage.name,
        settings_hash(stage),
        needs_manifest=True,
        min_pods=spec.train.nodes.min,
        gpus=gpus,
        tokens_per_step=length * spec.train.global_batch_size if length else None,
    )
