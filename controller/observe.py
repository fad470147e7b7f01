"""What is seen of one job, as frozen views: the input of ``reconcile``.

Objects come as plain dicts in the API server's form, so that a cluster and the local runtime are
read by the same code.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from k8s import names
from k8s.status import JobStatus, from_rfc3339
from pangu_core.messages import Progress, Termination

MAIN_KINDS: Final = ("Job", "PyTorchJob")
STARTING: Final = "ContainerCreating"  # the kubelet's word while all is well
REPLICA_INDEX: Final = "training.kubeflow.org/replica-index"


@dataclass(frozen=True)
class StagePlan:
    """One stage as the job file asks for it."""

    name: str
    settings_hash: str = ""
    needs_manifest: bool = False  # success is a checkpoint's manifest, not an exit of 0
    min_pods: int = 1
    gpus: int = 0  # of each pod
    tokens_per_step: int | None = None  # for the ETA


@dataclass(frozen=True)
class JobView:
    """What reconcile has to know of the job file."""

    name: str
    uid: str
    stages: tuple[StagePlan, ...]
    created_at: int = 0
    namespace: str = ""
    generation: int = 1
    suspend: bool = False
    cancel: bool = False
    rerun_from: str = ""  # a stage
    rerun_number: int = 0  # higher than the status has seen: not done yet
    restart_limit: int = 5
    restart_window_seconds: int = 3_600
    pending_seconds: int | None = None
    deadline_seconds: int | None = None
    gpu_hours: float | None = None
    surplus_seconds: int | None = None
    grace_seconds: int = 120
    backoff_seconds: float = 10.0  # of the first retry; doubles
    stall_seconds: float = 600.0  # second line of stall detection, behind the launcher's own
    min_nodes: int = 1
    max_nodes: int = 1
    processes_per_node: int = 1
    is_queued: bool = False  # another controller says when its pods may be
    notifies: bool = False  # a call is to be made when it ends
    ttl_seconds: int | None = None  # delete the object so long after its end
    claim: str = ""  # the workspace's; empty: nobody looks at it
    makes_claim: bool = False
    needs_many: bool = False  # pods on several nodes mount the claim
    serves: bool = False  # it asks for a service at its end


@dataclass(frozen=True)
class Waiting:
    """Why something does not run yet."""

    reason: str  # a CamelCase word
    message: str


@dataclass(frozen=True)
class ClaimView:
    """The workspace's claim."""

    phase: str  # Pending, Bound, Lost
    access_modes: tuple[str, ...]


@dataclass(frozen=True)
class FoundService:
    """A PanguService that has the job's name."""

    is_ours: bool  # a job of this name made it
    version: str  # of the model that it serves


@dataclass(frozen=True)
class PodView:
    """One pod of an attempt."""

    name: str
    uid: str
    replica: str  # stays the same when the pod is replaced
    phase: str  # Pending, Running, Succeeded, Failed
    exit_code: int | None = None
    reason: str = ""  # e.g. OOMKilled, Evicted
    termination: Termination | None = None
    message: str = ""  # a last word that is not one of ours
    finished_at: int | None = None
    kill_at: int | None = None  # end of its grace period, once it is being deleted
    disrupted: bool = False  # evicted, preempted, or deleted before it ended
    waiting: Waiting | None = None  # why it does not run yet
    is_lost: bool = False  # its node is not ready

    @property
    def is_active(self) -> bool:
        """Whether it may still do something."""
        return self.phase in ("Pending", "Running")


@dataclass(frozen=True)
class AttemptView:
    """The objects of one attempt that exist."""

    stage: str
    number: int
    has_main: bool = True  # its Job or PyTorchJob
    succeeded: bool = False  # the main object's own condition
    failed: bool = False
    failure: str = ""  # why, in the main object's words
    has_helpers: bool = False  # store and its Service, not asked to go yet
    deleting: bool = False  # nothing but helpers is left to ask deletion for
    pods: tuple[PodView, ...] = ()  # the store's pod is not among them
    progress: Progress | None = None  # the launcher's answer; None: nobody answered
    replicas: int | None = None  # workers that a PyTorchJob asks for
    is_suspended: bool = False  # held by a queue
    trouble: Waiting | None = None  # why its pods cannot be created

    @property
    def is_finished(self) -> bool:
        """Whether the main object has ended."""
        return self.succeeded or self.failed


@dataclass(frozen=True)
class Rival:
    """Another job that has too few pods, or just gave them back since that lasted too long."""

    created_at: int
    uid: str


@dataclass(frozen=True)
class Observed:
    """One moment of one job."""

    job: JobView
    status: JobStatus
    attempts: tuple[AttemptView, ...] = ()
    claim: ClaimView | None = None
    admission: Waiting | None = None  # what the queue says of the live attempt
    rivals: tuple[Rival, ...] = ()  # looked for when the job itself has waited for too long
    service: FoundService | None = None
    refusal: str = ""  # why the last write failed, in the API server's words

    def attempt(self, stage: str, number: int) -> AttemptView | None:
        """The view of one attempt, if any object of it exists."""
        return next((a for a in self.attempts if (a.stage, a.number) == (stage, number)), None)


def attempts_of(
    objects: Iterable[Mapping[str, Any]],
    *,
    progress: Mapping[tuple[str, int], Progress],
    lost_nodes: Collection[str] = (),
    trouble: Mapping[tuple[str, int], Waiting] | None = None,
) -> tuple[AttemptView, ...]:
    """Views of every attempt of which any object exists.

    Args:
        objects: manifests with status, of one job; those without our labels are left out.
        progress: answers of launchers by (stage, attempt).
        lost_nodes: names of nodes that are not ready.
        trouble: by (stage, attempt), why pods cannot be created.
    """
    groups: dict[tuple[str, int], list[Mapping[str, Any]]] = defaultdict(list)
    for item in objects:
        marks = item["metadata"].get("labels", {})
        if names.STAGE_LABEL in marks and names.ATTEMPT_LABEL in marks:
            groups[marks[names.STAGE_LABEL], int(marks[names.ATTEMPT_LABEL])].append(item)
    views = []
    for key, items in sorted(groups.items()):
        view = _attempt_view(key, items, progress.get(key), lost_nodes)
        views.append(replace(view, trouble=(trouble or {}).get(key)))
    return tuple(views)


def pod_view(pod: Mapping[str, Any], lost_nodes: Collection[str] = ()) -> PodView:
    """The view of a Pod; of several containers the first counts."""
    metadata, status = pod["metadata"], pod.get("status", {})
    ended = _terminated(status)
    text = ended.get("message", "")
    finished_at = from_rfc3339(ended.get("finishedAt"))
    return PodView(
        name=metadata["name"],
        uid=metadata["uid"],
        replica=metadata.get("labels", {}).get(REPLICA_INDEX, "0"),
        phase=status.get("phase", "Pending"),
        exit_code=ended.get("exitCode"),
        reason=ended.get("reason") or status.get("reason", ""),
        termination=Termination.from_json(text),
        message=text,
        finished_at=finished_at,
        kill_at=from_rfc3339(metadata.get("deletionTimestamp")),
        disrupted=_is_disrupted(status) or _was_deleted_before(metadata, finished_at),
        waiting=_waiting(status),
        is_lost=pod.get("spec", {}).get("nodeName") in lost_nodes,
    )


def is_of_the_store(item: Mapping[str, Any]) -> bool:
    """Whether an object belongs to the rendezvous store, its pod included."""
    return bool(
        item["metadata"].get("labels", {}).get(names.COMPONENT_LABEL) == names.STORE_CONTAINER
    )


def _attempt_view(
    key: tuple[str, int],
    items: list[Mapping[str, Any]],
    progress: Progress | None,
    lost_nodes: Collection[str],
) -> AttemptView:
    main = next((o for o in items if o["kind"] in MAIN_KINDS), None)
    helpers = [o for o in items if is_of_the_store(o)]
    pods = [o for o in items if o["kind"] == "Pod" and o not in helpers]
    owners = [o for o in items if o["kind"] != "Pod" and o not in helpers]
    conditions = main.get("status", {}).get("conditions", []) if main else []
    true = {c["type"]: c for c in conditions if c["status"] == "True"}
    failure = true.get("Failed", {})
    return AttemptView(
        stage=key[0],
        number=key[1],
        has_main=main is not None and "deletionTimestamp" not in main["metadata"],
        succeeded="Complete" in true or "Succeeded" in true,
        failed="Failed" in true,
        failure=": ".join(t for t in (failure.get("reason"), failure.get("message")) if t),
        has_helpers=any("deletionTimestamp" not in o["metadata"] for o in helpers),
        deleting=all("deletionTimestamp" in o["metadata"] for o in owners or pods),
        pods=tuple(pod_view(p, lost_nodes) for p in pods),
        progress=progress,
        **_of_main(main),
    )


def _of_main(main: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a Job or a PyTorchJob says beyond its conditions."""
    if main is None:
        return {}
    spec = main.get("spec", {})
    if main["kind"] != "PyTorchJob":
        return {"is_suspended": spec.get("suspend", False)}
    return {
        "replicas": spec["pytorchReplicaSpecs"]["Worker"].get("replicas", 1),
        "is_suspended": spec.get("runPolicy", {}).get("suspend", False),
    }


def _waiting(status: Mapping[str, Any]) -> Waiting | None:
    """The scheduler's word, else the kubelet's."""
    if status.get("phase", "Pending") != "Pending":
        return None
    for condition in status.get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            reason = condition.get("reason", "Unschedulable")
            return Waiting(reason, condition.get("message", ""))
    for container in status.get("containerStatuses", ()):
        state = container.get("state", {}).get("waiting") or {}
        if state.get("reason", STARTING) not in (STARTING, "PodInitializing"):
            return Waiting(state["reason"], state.get("message", ""))
    return None


def _terminated(status: Mapping[str, Any]) -> Mapping[str, Any]:
    containers = status.get("containerStatuses", [])
    ended: Mapping[str, Any] = (
        containers[0].get("state", {}).get("terminated") if containers else {}
    )
    return ended or {}


def _is_disrupted(status: Mapping[str, Any]) -> bool:
    kinds = {c["type"] for c in status.get("conditions", []) if c.get("status") == "True"}
    return "DisruptionTarget" in kinds or status.get("reason") == "Evicted"


def _was_deleted_before(metadata: Mapping[str, Any], finished_at: int | None) -> bool:
    """Whether deletion was asked for before the pod ended, not as a consequence of its end."""
    stamp = from_rfc3339(metadata.get("deletionTimestamp"))
    if stamp is None:
        return False
    asked_at = stamp - int(metadata.get("deletionGracePeriodSeconds", 0))
    return finished_at is None or asked_at < finished_at
