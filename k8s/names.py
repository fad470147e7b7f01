"""Every name that manifests share: objects, labels, ports, mount paths, variables."""

from typing import Final

from pangu_core import errors, messages, workspace
from pangu_core.config.stages import NOTIFY_TOKEN_VARIABLE
from pangu_core.entry import process
from pangu_core.rendezvous import protocol

GROUP: Final = "pangu-finetune.io"
API_VERSION: Final = f"{GROUP}/v1alpha1"
JOB_KIND: Final = "PanguJob"
SERVICE_KIND: Final = "PanguService"

# In the order in which they run.
STAGES: Final = ("fetch", "convert", "split", "preprocess", "train", "merge", "export")
TRAIN: Final = "train"
MERGE: Final = "merge"

# An object is called <job>-<stage>-<attempt>, and the longest name made from it is a trainer's:
# <job>-train-9999-worker-9999, a host name of at most 63 characters.
NAME_LIMIT: Final = 63
JOB_NAME_LIMIT: Final = NAME_LIMIT - len("-train-9999-worker-9999")

JOB_LABEL: Final = f"{GROUP}/job"
STAGE_LABEL: Final = f"{GROUP}/stage"
ATTEMPT_LABEL: Final = f"{GROUP}/attempt"
SERVICE_LABEL: Final = f"{GROUP}/service"
# Tells the objects of a job or service from those of one that had its name.
UID_LABEL: Final = f"{GROUP}/uid"
# The label's value on the objects of a call about a job's end, which is no stage.
NOTIFY: Final = "notify"
COMPONENT_LABEL: Final = "app.kubernetes.io/component"
APPLICATION_LABELS: Final = {
    "app.kubernetes.io/name": "pangu-finetune",
    "app.kubernetes.io/managed-by": "pangu",
}
# Of what is applied: a checksum of what was asked for.
APPLIED_ANNOTATION: Final = f"{GROUP}/applied"
CHECKSUM_ANNOTATION: Final = f"{GROUP}/config-checksum"
# Of a PanguService: another value rolls its pods, for the files of its model are others.
MODEL_VERSION_ANNOTATION: Final = f"{GROUP}/model-version"
# Kueue's, on what it admits.
QUEUE_LABEL: Final = "kueue.x-k8s.io/queue-name"
QUEUE_PRIORITY_LABEL: Final = "kueue.x-k8s.io/priority-class"
QUEUED_UID_LABEL: Final = "kueue.x-k8s.io/job-uid"  # of its Workloads: whose they are
RESERVED_LABEL_DOMAINS: Final = (GROUP, "training.kubeflow.org")
RESERVED_LABELS: Final = (COMPONENT_LABEL, *APPLICATION_LABELS)

# The training operator looks for a container of this name; run-once stages have their own.
TRAIN_CONTAINER: Final = "pytorch"
STAGE_CONTAINER: Final = "pangu"
STORE_CONTAINER: Final = "store"
STORE_COMPONENT: Final = "store"
SERVE_COMPONENT: Final = "serve"

STORE_PORT: Final = protocol.DEFAULT_PORT
PROGRESS_PORT: Final = 8080
STORE_PORT_NAME: Final = "store"
PROGRESS_PORT_NAME: Final = "progress"
SERVE_PORT: Final = 8000
SERVE_PORT_NAME: Final = "http"
LIVE_PATH: Final = "/livez"
READY_PATH: Final = "/readyz"

WORKSPACE_MOUNT: Final = "/workspace"
CONFIG_MOUNT: Final = "/etc/pangu"
CONFIG_KEY: Final = "config.yaml"
API_KEYS_MOUNT: Final = "/etc/pangu-keys"
HOME_MOUNT: Final = "/home/pangu"
TEMPORARY_MOUNT: Final = "/tmp"  # noqa: S108 - an emptyDir of the pod's own
SHARED_MEMORY_MOUNT: Final = "/dev/shm"  # noqa: S108 - an emptyDir of the pod's own
TERMINATION_PATH: Final = "/dev/termination-log"
# Volume name -> where it is mounted.
MOUNTS: Final = {
    "workspace": WORKSPACE_MOUNT,
    "config": CONFIG_MOUNT,
    "home": HOME_MOUNT,
    "tmp": TEMPORARY_MOUNT,
    "shm": SHARED_MEMORY_MOUNT,
    "api-keys": API_KEYS_MOUNT,
}

CONFIG_VARIABLE: Final = process.CONFIG_VARIABLE
TERMINATION_PATH_VARIABLE: Final = messages.TERMINATION_PATH_VARIABLE
WORKSPACE_VARIABLE: Final = workspace.WORKSPACE_VARIABLE
AGENT_NAME_VARIABLE: Final = "PANGU_AGENT_NAME"
AGENT_ADDRESS_VARIABLE: Final = "PANGU_AGENT_ADDRESS"
PROGRESS_PORT_VARIABLE: Final = "PANGU_PROGRESS_PORT"
GRACE_VARIABLE: Final = "PANGU_GRACE_SECONDS"
STORE_PORT_VARIABLE: Final = "PANGU_STORE_PORT"
# Texts that wait in a pod of a service, a gauge of its /metrics.
WAITING_METRIC: Final = "pangu_serve_queue_depth"
API_KEYS_VARIABLE: Final = "PANGU_API_KEYS_FILE"
NOTIFY_VARIABLE: Final = NOTIFY_TOKEN_VARIABLE
NOTIFY_TOKEN_KEY: Final = "token"  # noqa: S105 - a Secret's key
HOME_VARIABLE: Final = "HOME"
ENDPOINT_VARIABLE: Final = "AWS_ENDPOINT_URL"  # botocore's own
RESERVED_VARIABLE_PREFIXES: Final = ("PET_", "PANGU_")

CONFIG_ERROR_EXIT_CODE: Final = errors.ConfigError.exit_code

GPU_RESOURCE: Final = "nvidia.com/gpu"
HOST_LABEL: Final = "kubernetes.io/hostname"
RENDEZVOUS_BACKEND: Final = "pangu"


def stage_object(job: str, stage: str, attempt: int) -> str:
    """Name of the Job or PyTorchJob of one attempt, and of its ConfigMap."""
    return f"{job}-{stage}-{attempt}"


def store(job: str, stage: str, attempt: int) -> str:
    """Name of the rendezvous store's Deployment and Service."""
    return f"{stage_object(job, stage, attempt)}-store"


def worker(job: str, attempt: int, index: int) -> str:
    """Name of a training pod, as the training operator makes it."""
    return f"{stage_object(job, TRAIN, attempt)}-worker-{index}"


def service_config(service: str, checksum: str) -> str:
    """Name of a service's ConfigMap: another content is another object, for pods of before stay."""
    return f"{service}-{checksum[:10]}"


def service_address(service: str, namespace: str) -> str:
    """Where a service answers, for pods of its cluster."""
    return f"http://{service}.{namespace}.svc:{SERVE_PORT}/v1"


def service_labels(service: str, uid: str) -> dict[str, str]:
    """Labels of every object of a service."""
    return APPLICATION_LABELS | service_selector(service) | {UID_LABEL: uid}


def service_selector(service: str) -> dict[str, str]:
    """The labels that pick the pods of a service."""
    return {COMPONENT_LABEL: SERVE_COMPONENT, SERVICE_LABEL: service}


def workspace_claim(job: str) -> str:
    """Name of the claim that is made when a job asks for a workspace by size."""
    return f"{job}-workspace"


def clean_up(job: str, uid: str) -> str:
    """Name of the Job that deletes a run's folder."""
    return f"{job}-clean-up-{uid[:8]}"


def rendezvous_id(uid: str, attempt: int) -> str:
    """Key under which the agents of one attempt meet; no other attempt ever shares it."""
    return f"{uid}-{attempt}"


def labels(job: str, uid: str, stage: str, attempt: int, component: str) -> dict[str, str]:
    """Labels of every object of an attempt."""
    return APPLICATION_LABELS | selector(job, stage, attempt, component) | {UID_LABEL: uid}


def selector(job: str, stage: str, attempt: int, component: str) -> dict[str, str]:
    """The labels that pick the pods of one component of one attempt."""
    return {
        COMPONENT_LABEL: component,
        JOB_LABEL: job,
        STAGE_LABEL: stage,
        ATTEMPT_LABEL: str(attempt),
    }


def entry_command(verb: str) -> list[str]:
    """The command of a pod, the same on a laptop; everything else is in the environment."""
    return ["python", "-m", f"pangu_core.entry.{verb}"]
