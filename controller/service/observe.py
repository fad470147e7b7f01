"""What is seen of one service, as frozen views: the input of ``reconcile_service``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from controller.observe import ClaimView, Waiting, pod_view
from k8s import names
from k8s.status import ServiceStatus
from pangu_core.messages import Termination

Object = Mapping[str, Any]
AUTOSCALER_KINDS: Final = ("HorizontalPodAutoscaler", "ScaledObject")


@dataclass(frozen=True)
class ServiceView:
    """What has to be known of a PanguService's form."""

    name: str
    uid: str
    wanted: tuple[Object, ...]
    """Its manifests, in the order in which they are applied."""
    generation: int = 1
    replicas: int = 1
    selector: str = ""
    address: str = ""
    claim: str = ""
    needs_many: bool = True
    """Pods on several nodes may use the claim."""

    @property
    def autoscaler(self) -> str | None:
        """The kind of its autoscaler, if it asks for one."""
        return next((o["kind"] for o in self.wanted if o["kind"] in AUTOSCALER_KINDS), None)


@dataclass(frozen=True)
class ObservedService:
    """One moment of one service."""

    service: ServiceView
    status: ServiceStatus
    objects: tuple[Object, ...] = ()
    """What bears its label, of this service or of one that had its name; pods too."""
    claim: ClaimView | None = None
    installed: frozenset[str] = frozenset(AUTOSCALER_KINDS)
    """Kinds of autoscalers that can be made."""
    warnings: Mapping[str, Waiting] = field(default_factory=dict)
    """The latest warning about objects, by their uid: asked for while pods are silent."""
    refusal: str = ""
    """Why the last write failed, in the API server's words."""

    @property
    def own(self) -> tuple[Object, ...]:
        """The objects of this very service, but for its pods."""
        return tuple(o for o in self.objects if o["kind"] != "Pod" and self._is_own(o))

    @property
    def strangers(self) -> tuple[Object, ...]:
        """Objects of a service that had its name before; its pods may still finish their answers."""
        return tuple(o for o in self.objects if o["kind"] != "Pod" and not self._is_own(o))

    @property
    def pods(self) -> tuple[Object, ...]:
        """The pods of this very service that are to stay, the youngest first."""
        pods = [
            o
            for o in self.objects
            if o["kind"] == "Pod" and self._is_own(o) and "deletionTimestamp" not in o["metadata"]
        ]
        pods.sort(key=lambda pod: pod["metadata"].get("creationTimestamp", ""), reverse=True)
        return tuple(pods)

    @property
    def silent(self) -> tuple[Object, ...]:
        """Pods that were placed and do not start, and of which no one says why: a volume perhaps."""
        return tuple(
            pod
            for pod in self.pods
            if pod["status"].get("phase") == "Pending" and trouble_of(pod) is None
        )

    @property
    def deployment(self) -> Object | None:
        """Its Deployment, if there is one."""
        return self.found("Deployment", self.service.name)

    def found(self, kind: str, name: str) -> Object | None:
        """One of its objects."""
        return next(
            (o for o in self.own if (o["kind"], o["metadata"]["name"]) == (kind, name)), None
        )

    def _is_own(self, item: Object) -> bool:
        marks = item["metadata"].get("labels", {})
        return bool(marks.get(names.UID_LABEL) == self.service.uid)


def trouble_of(pod: Object) -> Waiting | None:
    """Why a pod does not answer: it cannot be placed, cannot start, or ended with an error."""
    waiting = pod_view(pod).waiting
    if waiting:
        return waiting
    for container in pod.get("status", {}).get("containerStatuses", ()):
        state = container.get("state", {})
        ended = state.get("terminated") or container.get("lastState", {}).get("terminated")
        if ended and ended.get("exitCode") and not container.get("ready"):
            return _last_word(ended, container.get("restartCount", 0))
    return None


def _last_word(ended: Object, restarts: int) -> Waiting:
    text = ended.get("message", "")
    word = Termination.from_json(text)
    reason = word.error if word and word.error else ended.get("reason") or "Error"
    message = word.message if word else text
    head = f"exit code {ended['exitCode']}, {restarts} restarts"
    return Waiting(reason, f"{head}: {message}" if message else head)
