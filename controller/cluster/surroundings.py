"""What a job depends on beside its own objects: its claim, the nodes, and why pods are not made."""

import math
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from controller.cluster.api import Api, ApiError
from controller.cluster.cache import Key
from controller.cluster.kinds import EVENT, POD
from controller.observe import (
    MAIN_KINDS,
    ClaimView,
    FoundService,
    JobView,
    Rival,
    Waiting,
    is_of_the_store,
)
from controller.verdict import PENDING_TOO_LONG, waits_too_long
from k8s import names
from k8s.status import Attempt, JobStatus, from_rfc3339

Object = dict[str, Any]
PERIOD_SECONDS: Final = 10.0
# Before it is asked for, an operator has this long to make the pods.
PATIENCE_SECONDS: Final = 3.0
# Pods say in their status what is wrong with them, and there are many.
_WARNINGS: Final = f"type=Warning,involvedObject.kind!={POD.name}"


def claim_view(claims: Iterable[Object], namespace: str, name: str) -> ClaimView | None:
    """A claim by its name; None if there is none."""
    for claim in claims:
        metadata = claim["metadata"]
        if (metadata["namespace"], metadata["name"]) == (namespace, name):
            return ClaimView(claim["status"]["phase"], tuple(claim["spec"]["accessModes"]))
    return None


def found_service(services: Iterable[Object], key: Key) -> FoundService | None:
    """The PanguService that has a job's name; None if there is none."""
    for service in services:
        metadata = service["metadata"]
        if (metadata["namespace"], metadata["name"]) == key[1:]:
            return FoundService(
                is_ours=is_made_by(service, key[2]),
                version=metadata.get("annotations", {}).get(names.MODEL_VERSION_ANNOTATION, ""),
            )
    return None


def is_made_by(service: Object, job: str) -> bool:
    """Whether a job of this name made a PanguService."""
    wanted = names.APPLICATION_LABELS | {names.JOB_LABEL: job}
    return bool(wanted.items() <= service["metadata"].get("labels", {}).items())


def lost_nodes(nodes: Iterable[Object]) -> frozenset[str]:
    """Names of nodes whose kubelet is not heard of."""
    return frozenset(
        node["metadata"]["name"]
        for node in nodes
        if any(c["type"] == "Ready" and c["status"] != "True" for c in node["status"]["conditions"])
    )


def rivals(
    jobs: Iterable[Object], job: JobView, status: JobStatus, now: float
) -> tuple[Rival, ...]:
    """Other jobs that wait for pods, asked for only when this one has waited for too long."""
    if status.attempt is None or not waits_too_long(status.attempt, job, math.floor(now)):
        return ()
    return tuple(
        Rival(from_rfc3339(other["metadata"]["creationTimestamp"]), other["metadata"]["uid"])
        for other in jobs
        if other["metadata"]["uid"] != job.uid
        and "pendingSeconds" in other["spec"].get("limits", {})
        and "queue" not in other["spec"]
        and lacks_pods(other["status"])
    )


def lacks_pods(status: Object) -> bool:
    """Whether a job has too few pods, or gave them back and waits for its next attempt."""
    if "attempt" in status:
        return "shortSince" in status["attempt"]
    last = (status.get("history") or [{}])[-1]
    return "retryAt" in status and last.get("cause") == PENDING_TOO_LONG


class Troubles:
    """Why an attempt has no pods: the warnings about its Job or PyTorchJob. Thread-safe.

    Quotas, missing priority classes and admission refuse pods when they are created; only events
    say so. While pods are missing they are read, at most once in ten seconds for a whole namespace:
    the API server looks through all of its events for each question.
    """

    def __init__(self, api: Api) -> None:
        self._api = api
        self._lock = threading.Lock()
        # Namespace -> when it was asked for, and the latest warning by the object's uid.
        self._known: dict[str, tuple[float, Mapping[str, Waiting]]] = {}

    def of(
        self, attempt: Attempt | None, own: Iterable[Object]
    ) -> Mapping[tuple[str, int], Waiting]:
        """The live attempt's trouble, if it has any."""
        if attempt is None or time.time() - attempt.created_at < PATIENCE_SECONDS:
            return {}
        mine = [o for o in own if _number(o) == (attempt.stage, attempt.number)]
        main = next((o for o in mine if o["kind"] in MAIN_KINDS), None)
        if main is None or any(o["kind"] == POD.name and not is_of_the_store(o) for o in mine):
            return {}
        metadata = main["metadata"]
        why = self.warnings(metadata["namespace"]).get(metadata["uid"])
        return {(attempt.stage, attempt.number): why} if why else {}

    def warnings(self, namespace: str) -> Mapping[str, Waiting]:
        """The latest warning about each object of a namespace, by its uid."""
        now = time.monotonic()
        with self._lock:
            asked_at, known = self._known.get(namespace, (float("-inf"), {}))
            if now - asked_at < PERIOD_SECONDS:
                return known
            self._known[namespace] = now, known  # the others do not ask meanwhile
        try:
            events = self._api.list(EVENT, namespace, fieldSelector=_WARNINGS)["items"]
        except ApiError:
            return known
        events.sort(key=lambda event: event.get("lastTimestamp") or "")
        latest = {
            event["involvedObject"].get("uid", ""): Waiting(
                event.get("reason", ""), event.get("message", "")
            )
            for event in events
        }
        with self._lock:
            self._known[namespace] = now, latest
        return latest


def _number(item: Object) -> tuple[str, int] | None:
    labels = item["metadata"].get("labels", {})
    if names.STAGE_LABEL not in labels or names.ATTEMPT_LABEL not in labels:
        return None
    return labels[names.STAGE_LABEL], int(labels[names.ATTEMPT_LABEL])
