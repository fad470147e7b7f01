"""What becomes of a pod in a test, and the status that a kubelet would write of it. Pure."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from k8s.status import to_rfc3339
from pangu_core.messages import Progress, Termination

Pod = dict[str, Any]
Status = dict[str, Any]
STOPPED: Final = 143


@dataclass(frozen=True)
class Behaviour:
    """What becomes of one pod; the fields that come first win."""

    unschedulable: str = ""  # the scheduler's words; the pod is not placed
    waiting: tuple[str, str] | None = None  # reason and message, e.g. ("ImagePullBackOff", "...")
    exit_code: int | None = None  # None: it runs until it is asked to end
    run_seconds: float = 0.0
    message: str | Termination = ""  # the termination message
    reason: str = ""  # e.g. OOMKilled
    disruption: str = ""  # reason of a DisruptionTarget condition, e.g. EvictionByEvictionAPI
    stop_code: int = STOPPED  # when asked to end
    stop_message: str | Termination = ""
    stop_seconds: float = 0.0  # until it has ended; inf: its node is gone
    remove_seconds: float = 0.2  # from its containers' end to its own, for volumes to go
    progress: Callable[[], Progress] | None = None  # what /progress answers; it may block
    is_ready: bool = True


Policy = Callable[[Pod], Behaviour]


def run(_: Pod) -> Behaviour:
    """The default policy: every pod runs until it is asked to end."""
    return Behaviour()


def unplaced(words: str) -> Status:
    """Of a pod that the scheduler finds no node for."""
    return {"conditions": [condition("PodScheduled", False, "Unschedulable", words)]}


def waiting(pod: Pod, why: tuple[str, str], *, restarts: int) -> Status:
    """Of a pod whose containers cannot start."""
    state = {"waiting": {"reason": why[0], "message": why[1]}}
    containers = _containers(pod, state, ready=False, restarts=restarts)
    return {"phase": "Pending", "containerStatuses": containers, "startTime": now()}


def running(
    pod: Pod, *, address: str, ready: bool, restarts: int, ended: Behaviour | None = None
) -> Status:
    """Of a pod that runs, perhaps after its containers ``ended`` and were started again."""
    containers = _containers(pod, {"running": {"startedAt": now()}}, ready=ready, restarts=restarts)
    if ended is not None:
        containers = [each | {"lastState": _terminated(ended)} for each in containers]
    kinds = {"Initialized": True, "ContainersReady": ready, "Ready": ready}
    return {
        "phase": "Running",
        "hostIP": "127.0.0.1",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "startTime": now(),
        "conditions": [condition(kind, value) for kind, value in kinds.items()],
        "containerStatuses": containers,
    }


def ended(pod: Pod, behaviour: Behaviour, *, restarts: int) -> Status:
    """Of a pod whose containers have exited for good."""
    failed = behaviour.exit_code != 0
    reason = "PodFailed" if failed else "PodCompleted"
    conditions = [condition(kind, False, reason) for kind in ("ContainersReady", "Ready")]
    if behaviour.disruption:
        conditions.append(condition("DisruptionTarget", True, behaviour.disruption))
    return {
        "phase": "Failed" if failed else "Succeeded",
        "conditions": conditions,
        "containerStatuses": _containers(
            pod, _terminated(behaviour), ready=False, restarts=restarts
        ),
    }


def condition(kind: str, value: bool, reason: str = "", message: str = "") -> dict[str, Any]:
    """A condition of a pod or node."""
    words = {key: text for key, text in (("reason", reason), ("message", message)) if text}
    return {"type": kind, "status": str(value), "lastTransitionTime": now(), **words}


def now() -> str:
    """The time as the API server writes it."""
    return to_rfc3339(int(time.time()))


def _containers(
    pod: Pod, state: dict[str, Any], *, ready: bool, restarts: int
) -> list[dict[str, Any]]:
    return [
        {
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "ready": ready,
            "started": "running" in state,
            "restartCount": restarts,
            "state": state,
        }
        for container in pod["spec"]["containers"]
    ]


def _terminated(behaviour: Behaviour) -> dict[str, Any]:
    message = behaviour.message
    return {
        "terminated": {
            "exitCode": behaviour.exit_code,
            "reason": behaviour.reason or ("Error" if behaviour.exit_code else "Completed"),
            "message": message.to_json() if isinstance(message, Termination) else message,
            "startedAt": now(),
            "finishedAt": now(),
        }
    }
