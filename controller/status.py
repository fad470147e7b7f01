"""How a job's status changes, one small step a function. Pure."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Final, TypeVar

from k8s import names
from k8s.status import Condition, JobStatus, PastAttempt, ServiceStatus, StageStatus, Truth

HISTORY_LIMIT: Final = 10
PROGRESS_PERIOD_SECONDS: Final = 10
S = TypeVar("S", JobStatus, ServiceStatus)


def with_stage(status: JobStatus, stage: StageStatus) -> JobStatus:
    """The status with one stage's entry replaced."""
    return replace(
        status, stages=tuple(stage if s.name == stage.name else s for s in status.stages)
    )


def with_history(status: JobStatus, past: PastAttempt) -> JobStatus:
    """The status with an ended attempt added; only the newest few are kept."""
    return replace(status, history=(*status.history, past)[-HISTORY_LIMIT:])


def with_restart(status: JobStatus, cause: str) -> JobStatus:
    """The status with one more restart of this cause counted."""
    counts = {**status.restarts, cause: status.restarts.get(cause, 0) + 1}
    return replace(status, restarts=counts)


def with_condition(status: S, kind: str, truth: Truth, *, reason: str, message: str, now: int) -> S:
    """The status with a condition set; its transition time moves only when its status flips."""
    before = status.condition(kind)
    since = before.last_transition_time if before and before.status == truth else now
    after = Condition(kind, truth, reason, message, since, status.observed_generation)
    if before is None:
        return replace(status, conditions=(*status.conditions, after))
    conditions = tuple(after if c.type == kind else c for c in status.conditions)
    return replace(status, conditions=conditions)


def reopened(
    status: JobStatus, hashes: Mapping[str, str], *, kept: Collection[str] = ()
) -> JobStatus:
    """The status with which a user's new start of an ended or stopped job begins.

    Every stage runs again: its own entry looks at inputs and outputs, and ends at once, as
    skipped, if there is nothing to do. Only what is kept stays finished, unless its settings or
    an earlier stage's changed. The restart budget is fresh, attempt numbers go on rising.

    Args:
        status: what the last start left behind.
        hashes: stage name -> settings hash now, in the order of the stages.
        kept: stages whose entry cannot skip, and whose output is there.
    """
    stages = []
    changed = False
    for name, settings_hash in hashes.items():
        stage = status.stage(name)
        changed = changed or not stage.is_done or stage.settings_hash != settings_hash
        stays = name in kept and not changed
        stages.append(stage if stays else StageStatus(name, attempt=stage.attempt))
    # What an attempt of the last start had of objects went away with that start.
    attempt = replace(status.attempt, seen=True) if status.attempt else None
    return replace(_afresh(status), stages=tuple(stages), attempt=attempt, progress=None)


def rerun(status: JobStatus, *, first: str) -> JobStatus:
    """The status of a job without live attempt that runs again from a stage on.

    Stages before it that are done stay so. The restart budget and the deadline begin anew.
    """
    head = names.STAGES.index(first)
    stages = tuple(
        stage
        if names.STAGES.index(stage.name) < head
        else StageStatus(stage.name, attempt=stage.attempt)
        for stage in status.stages
    )
    return replace(_afresh(status), stages=stages)


def _afresh(status: JobStatus) -> JobStatus:
    return replace(
        status,
        phase="Pending",
        charges=(),
        restarts={},
        retry_at=None,
        started_at=None,
        completed_at=None,
        exit_code=None,
    )
