"""What the templates may see: flat and named, everything worked out."""

import hashlib
from dataclasses import dataclass, field
from typing import Any, Final

from k8s import names
from k8s.blocks import QueueBlock
from k8s.placement import LOST_NODE_TOLERATIONS, PodSettings
from k8s.spec import PanguJob, PanguService
from k8s.stages import Stage

# PodSettings' fields that go into a pod's spec as they are.
_POD_FIELDS: Final = (
    "nodeSelector",
    "priorityClassName",
    "schedulerName",
    "runtimeClassName",
    "serviceAccountName",
    "imagePullSecrets",
)
# The restart budget is the controller's; the launcher never runs out of rounds by itself.
_UNBOUNDED_RESTARTS: Final = 1_000_000
# Group of every process, so that volumes are writable whatever the user id.
_GROUP_ID: Final = 1000


def pod_security() -> dict[str, Any]:
    """What the pod security standard "restricted" asks of a pod."""
    return {
        "runAsNonRoot": True,
        "fsGroup": _GROUP_ID,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> dict[str, Any]:
    """What the pod security standard "restricted" asks of a container, and a read-only root."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@dataclass(frozen=True)
class StageContext:
    """Context of the manifests of one attempt of one stage."""

    name: str
    namespace: str | None
    owners: list[dict[str, Any]]
    labels: dict[str, str]
    main_labels: dict[str, str]  # of the Job or PyTorchJob: a queue's in addition
    is_queued: bool
    config_text: str
    config_checksum: str

    is_training: bool
    container_name: str
    command: list[str]
    image: str
    image_pull_policy: str | None
    pod_labels: dict[str, str]
    pod_annotations: dict[str, str]
    pod_fields: dict[str, Any]
    claim_name: str
    resources: dict[str, Any]
    env: list[dict[str, Any]]
    env_from: list[dict[str, Any]]
    volumes: list[dict[str, Any]]
    volume_mounts: list[dict[str, Any]]
    shared_memory: str
    grace_seconds: int

    store_name: str
    store_image: str
    store_labels: dict[str, str]
    store_selector: dict[str, str]
    store_command: list[str]
    store_pod_fields: dict[str, Any]
    rendezvous_id: str
    min_nodes: int
    max_nodes: int
    processes_per_node: str

    config_path: str = f"{names.CONFIG_MOUNT}/{names.CONFIG_KEY}"
    max_restarts: int = _UNBOUNDED_RESTARTS
    replaceable_exit_codes: list[int] = field(default_factory=lambda: list(range(128, 256)))
    pod_security: dict[str, Any] = field(default_factory=pod_security)
    container_security: dict[str, Any] = field(default_factory=container_security)


def stage_context(
    stage: Stage, *, attempt: int, config_text: str, store_image: str
) -> StageContext:
    """Work out everything that the templates of a stage need."""
    job, spec = stage.job, stage.job.spec
    pods = spec.pods_for(stage.name)
    assert pods.resources is not None
    values = pods.dump()
    checksum = hashlib.sha256(config_text.encode()).hexdigest()
    labels = names.labels(job.name, job.uid, stage.name, attempt, stage.name)
    affinity = _affinity(pods, names.selector(job.name, stage.name, attempt, stage.name))
    return StageContext(
        name=names.stage_object(job.name, stage.name, attempt),
        namespace=job.metadata.namespace,
        owners=owners_of(job),
        labels=labels,
        main_labels=labels | _queue_labels(spec.queue),
        is_queued=spec.queue is not None,
        config_text=config_text,
        config_checksum=checksum,
        is_training=stage.is_training,
        container_name=names.TRAIN_CONTAINER if stage.is_training else names.STAGE_CONTAINER,
        command=names.entry_command(stage.name),
        image=spec.image,
        image_pull_policy=pods.image_pull_policy,
        pod_labels=pods.labels | labels,
        pod_annotations=pods.annotations | {names.CHECKSUM_ANNOTATION: checksum},
        pod_fields=pod_fields(pods) | ({"affinity": affinity} if affinity else {}),
        claim_name=spec.workspace.claim_name or names.workspace_claim(job.name),
        resources={key: value for key, value in values["resources"].items() if value},
        env=_environment(stage, values["env"]),
        env_from=[*values["envFrom"], *_credentials(stage)],
        volumes=values["volumes"],
        volume_mounts=values["volumeMounts"],
        shared_memory=pods.shared_memory,
        grace_seconds=pods.grace_period,
        store_name=names.store(job.name, stage.name, attempt),
        store_image=store_image,
        store_labels=names.labels(job.name, job.uid, stage.name, attempt, names.STORE_COMPONENT),
        store_selector=names.selector(job.name, stage.name, attempt, names.STORE_COMPONENT),
        store_command=names.entry_command("store"),
        store_pod_fields=pod_fields(spec.pods),
        rendezvous_id=names.rendezvous_id(job.uid, attempt),
        min_nodes=spec.train.nodes.min,
        max_nodes=spec.train.nodes.max,
        processes_per_node=str(spec.train.nodes.processes_per_node),
    )


def _environment(stage: Stage, own: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The user's variables, and the endpoint of the store that the stage reads or writes."""
    endpoint = stage.store.endpoint if stage.store else None
    if endpoint is None:
        return own
    others = [each for each in own if each["name"] != names.ENDPOINT_VARIABLE]
    return [*others, {"name": names.ENDPOINT_VARIABLE, "value": endpoint}]


def _credentials(stage: Stage) -> list[dict[str, Any]]:
    secret = stage.store.secret_ref if stage.store else None
    return [{"secretRef": secret.dump()}] if secret else []


def _queue_labels(queue: QueueBlock | None) -> dict[str, str]:
    if queue is None:
        return {}
    priority = {names.QUEUE_PRIORITY_LABEL: queue.priority_class} if queue.priority_class else {}
    return {names.QUEUE_LABEL: queue.name, **priority}


@dataclass(frozen=True)
class ClaimContext:
    """Context of the workspace's claim."""

    name: str
    namespace: str | None
    labels: dict[str, str]
    access_mode: str
    storage_class_name: str | None
    size: str


def claim_context(job: PanguJob) -> ClaimContext | None:
    """The claim that a job asks to be made; None where it names an existing one."""
    workspace = job.spec.workspace
    if workspace.size is None:
        return None
    return ClaimContext(
        name=names.workspace_claim(job.name),
        namespace=job.metadata.namespace,
        labels=names.APPLICATION_LABELS | {names.JOB_LABEL: job.name},
        access_mode=workspace.access_mode,
        storage_class_name=workspace.storage_class_name,
        size=workspace.size,
    )


def owners_of(owner: PanguJob | PanguService) -> list[dict[str, Any]]:
    """The job or service as owner; none off a cluster, where a made-up uid owns nothing."""
    if owner.metadata.uid is None:
        return []
    return [
        {
            "apiVersion": names.API_VERSION,
            "kind": owner.kind,
            "name": owner.name,
            "uid": owner.metadata.uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]


def pod_fields(pods: PodSettings) -> dict[str, Any]:
    """What goes into a pod's spec as it is, and our tolerations."""
    values = pods.dump()
    borne = {toleration.key for toleration in pods.tolerations}
    ours = [each.dump() for each in LOST_NODE_TOLERATIONS if each.key not in borne]
    fields = {key: values[key] for key in _POD_FIELDS if values.get(key)}
    return fields | {"tolerations": values["tolerations"] + ours}


def _affinity(pods: PodSettings, selector: dict[str, str]) -> dict[str, Any]:
    """The user's affinity, and a wish to have all trainers under one value of ``topology``."""
    if pods.topology is None or selector[names.STAGE_LABEL] != names.TRAIN:
        return pods.affinity
    wish = {
        "weight": 100,
        "podAffinityTerm": {
            "topologyKey": pods.topology,
            "labelSelector": {"matchLabels": selector},
        },
    }
    key = "preferredDuringSchedulingIgnoredDuringExecution"
    theirs = pods.affinity.get("podAffinity", {})
    return pods.affinity | {"podAffinity": theirs | {key: [*theirs.get(key, []), wish]}}
