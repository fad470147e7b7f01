"""Why a queue holds an attempt: what Kueue says in the Workload it made, where we may read it."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from controller.cluster.api import Api, ApiError
from controller.cluster.kinds import WORKLOAD
from controller.observe import MAIN_KINDS, Waiting
from k8s import names
from k8s.status import Attempt

Object = dict[str, Any]
PERIOD_SECONDS: Final = 10.0
# After a refusal: the right, or Kueue itself, is not there, and comes seldom.
REFUSED_SECONDS: Final = 300.0


class Workloads:
    """Reads the Workload of an attempt that waits, at most once in ten seconds."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._known: dict[str, tuple[float, Waiting | None]] = {}  # by the object's uid
        self._ask_at = float("-inf")

    def of(self, attempt: Attempt | None, own: Iterable[Object]) -> Waiting | None:
        """What the queue says of the live attempt, if it holds it and we may know."""
        if attempt is None:
            return None
        main = next((o for o in own if _is_held(o, attempt)), None)
        return self._ask(main["metadata"]) if main else None

    def _ask(self, metadata: Object) -> Waiting | None:
        uid, now = metadata["uid"], time.monotonic()
        asked_at, why = self._known.get(uid, (float("-inf"), None))
        if now - asked_at < PERIOD_SECONDS or now < self._ask_at:
            return why
        selector = f"{names.QUEUED_UID_LABEL}={uid}"
        try:
            found = self._api.list(WORKLOAD, metadata["namespace"], labelSelector=selector)["items"]
        except ApiError:
            self._ask_at = now + REFUSED_SECONDS
            return why
        why = admission(found[0].get("status", {}).get("conditions", ())) if found else None
        self._known[uid] = (now, why)
        return why


def admission(conditions: Sequence[Mapping[str, Any]]) -> Waiting | None:
    """Why a Workload is not admitted: it was evicted, else it has no quota yet."""
    by_type = {each["type"]: each for each in conditions}
    evicted, quota = by_type.get("Evicted", {}), by_type.get("QuotaReserved", {})
    for condition, truth in ((quota, "False"), (evicted, "True")):
        if condition.get("status") == truth and condition.get("message"):
            return Waiting(condition.get("reason") or "Pending", condition["message"])
    return None


def _is_held(item: Object, attempt: Attempt) -> bool:
    if item["kind"] not in MAIN_KINDS:
        return False
    labels, spec = item["metadata"].get("labels", {}), item.get("spec", {})
    mine = labels.get(names.STAGE_LABEL) == attempt.stage
    mine = mine and labels.get(names.ATTEMPT_LABEL) == str(attempt.number)
    return mine and bool(spec.get("suspend") or spec.get("runPolicy", {}).get("suspend"))
