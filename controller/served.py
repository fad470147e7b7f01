"""The service that a job asks for, made once when the job is complete. Pure.

The job does not own it and never looks at it again: whoever deletes or changes it then is right.
"""

from typing import Final

from controller.actions import Serve
from controller.conditions import MESSAGE_LIMIT, Finding
from controller.observe import Observed
from controller.status import PROGRESS_PERIOD_SECONDS, with_condition
from k8s import names
from k8s.status import JobStatus
from pangu_core.errors import shorten

SERVED: Final = "Served"
TAKEN: Final = "NameTaken"
# The service's watch wakes the service, not its job.
_LOOK_SECONDS: Final = 1


def with_served(status: JobStatus, observed: Observed, *, now: int) -> JobStatus:
    """The status with whether the service is there, for a job that asks for one."""
    if not observed.job.serves:
        return status
    truth, reason, message = _finding(status, observed)
    return with_condition(status, SERVED, truth, reason=reason, message=message, now=now)


def serve_actions(status: JobStatus, observed: Observed) -> tuple[Serve, ...]:
    """Make the service, or bring one of ours up to date."""
    if not _is_due(status, observed) or _is_taken(status):
        return ()
    return (Serve(_version(status, observed)),)


def look_at(status: JobStatus, observed: Observed, now: int) -> int | None:
    """When to look whether the service is there, or its name is free."""
    if not _is_due(status, observed):
        return None
    return now + (PROGRESS_PERIOD_SECONDS if _is_taken(status) else _LOOK_SECONDS)


def _is_due(status: JobStatus, observed: Observed) -> bool:
    condition = status.condition(SERVED)
    is_there = condition is not None and condition.status == "True"
    return observed.job.serves and status.phase == "Complete" and not is_there


def _is_taken(status: JobStatus) -> bool:
    condition = status.condition(SERVED)
    return condition is not None and condition.reason == TAKEN


def _finding(status: JobStatus, observed: Observed) -> Finding:
    before, found, name = status.condition(SERVED), observed.service, observed.job.name
    if status.phase != "Complete":
        return "False", "NotYet", ""
    if before and before.status == "True":
        return "True", before.reason, before.message
    if observed.refusal:
        return "False", "Refused", shorten(observed.refusal, MESSAGE_LIMIT)
    if found is None or (found.is_ours and found.version != _version(status, observed)):
        return "False", "Creating", ""
    if found.is_ours:
        return "True", "Created", f"PanguService {name}"
    return (
        "False",
        TAKEN,
        f"serve: PanguService {name} is there already, and no job of this name made it; delete it, "
        "and the job makes its own",
    )


def _version(status: JobStatus, observed: Observed) -> str:
    """Of the model that is served: whose it is, and what it is."""
    digest = status.stage(names.MERGE).manifest_sha256 or str(status.completed_at)
    return f"{observed.job.uid}.{digest[:16]}"
