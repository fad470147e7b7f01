"""From a PanguService to what its pods are told, and from a job's ``serve`` to a PanguService. Pure."""

from typing import Any, Final

from k8s import names
from k8s.blocks import WorkspaceBlock
from k8s.metadata import Metadata
from k8s.placement import PodSettings, Resources
from k8s.spec import PanguJob, PanguService, ServiceSpec
from pangu_core.config.stages import ServeConfig
from pangu_core.workspace import RunPaths

# What a job-wide block says for the sake of training.
_OF_TRAINING: Final = frozenset({"topology", "shared_memory", "grace_period", "resources"})


def serve_config(service: PanguService) -> ServeConfig:
    """The settings that the service's pods read from their config file."""
    spec = service.spec
    return ServeConfig(
        name=service.name,
        model=spec.model,
        tokenizer=spec.tokenizer,
        precision=spec.precision,
        tensor_parallel=spec.tensor_parallel,
        port=names.SERVE_PORT,
        max_batch=spec.max_batch,
        max_queue=spec.max_queue,
    )


def service_of(job: PanguJob, version: str) -> PanguService | None:
    """The service that a job asks for at its end; None where it asks for none.

    It is not the job's own: nothing of it goes when the job goes.

    Args:
        job: a checked job.
        version: of its model; another one rolls the service's pods.
    """
    spec = job.spec
    if spec.serve is None:
        return None
    claim = spec.workspace.claim_name or names.workspace_claim(job.name)
    pods = pods_for_serving(spec.pods, spec.serve.tensor_parallel).overridden_by(spec.serve.pods)
    values = {name: getattr(spec.serve, name) for name in spec.serve.model_fields_set}
    return PanguService(
        metadata=Metadata(
            name=job.name,
            namespace=job.metadata.namespace,
            labels=names.APPLICATION_LABELS | {names.JOB_LABEL: job.name},
            annotations={names.MODEL_VERSION_ANNOTATION: version},
        ),
        spec=ServiceSpec(
            image=spec.image,
            workspace=WorkspaceBlock(claim_name=claim),
            model=RunPaths(job.run_name).model,
            **(values | {"pods": pods}),
        ),
    )


def manifest_of(each: PanguJob | PanguService) -> dict[str, Any]:
    """An object as it is applied: no field but those that somebody wrote.

    What is absent is the API server's to fill in, or the cluster's defaults', and the number of a
    service's pods the autoscaler's, where there is one.
    """
    values = each.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_unset=True)
    if isinstance(each, PanguService) and each.spec.autoscale:
        values["spec"].pop("replicas", None)
    return {"apiVersion": each.api_version, "kind": each.kind, **values}


def pods_for_serving(wide: PodSettings, ranks: int) -> PodSettings:
    """Settings for many kinds of pods, as they hold for a service.

    Args:
        wide: of a job, or of the cluster.
        ranks: GPUs that share one copy of the model.

    Resources without GPUs are for CPUs, and hold as they are. With GPUs they are a trainer's, often
    a whole node: a service takes the GPUs that it needs.
    """
    given = {name: getattr(wide, name) for name in wide.model_fields_set - _OF_TRAINING}
    if wide.resources is not None:
        given["resources"] = _resources(wide.resources, ranks)
    return PodSettings(**given)


def resources_of(service: PanguService) -> Resources:
    """What a service's container asks for; by default, a GPU for each rank."""
    pods = service.spec.pods
    return (
        _resources(None, service.spec.tensor_parallel) if pods.resources is None else pods.resources
    )


def _resources(wide: Resources | None, ranks: int) -> Resources:
    gpus = {names.GPU_RESOURCE: str(ranks)}
    if wide is not None and names.GPU_RESOURCE not in wide.requests | wide.limits:
        return wide
    return Resources(requests=gpus, limits=gpus)
