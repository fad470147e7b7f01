"""What changed between two statuses, a sentence for people each: lines and events. Pure."""

from dataclasses import dataclass
from typing import Final

from k8s.status import JobStatus, PastAttempt, StageStatus

_PHASES: Final = {
    "Suspending": "stopping: pods save what they have and end",
    "Suspended": "stopped; run again to continue",
    "Complete": "complete",
    "Failed": "failed",
    "Cancelled": "cancelled; what was saved stays",
}


@dataclass(frozen=True)
class Change:
    """One change worth a line."""

    reason: str  # a CamelCase word, as events want it
    text: str
    is_warning: bool = False  # somebody may have to act


def transitions(before: JobStatus, after: JobStatus) -> tuple[Change, ...]:
    """Every change worth a line, in the order in which they happened."""
    changes = [_ended(past) for past in _new(before, after) if past.cause != "Suspended"]
    changes += [
        Change("PodReplaced", f"a pod was replaced ({cause})")
        for cause, count in after.restarts.items()
        if count > before.restarts.get(cause, 0) and not _was_an_attempt(before, after, cause)
    ]
    if after.retry_at and after.retry_at != before.retry_at and after.history:
        wait = after.retry_at - after.history[-1].ended_at
        changes.append(Change("BackingOff", f"the next attempt starts in {wait} s"))
    if after.attempt and _key(after) != _key(before):
        stage, number = after.attempt.stage, after.attempt.number
        changes.append(Change("AttemptStarted", f"{stage}: attempt {number} starts"))
    changes += _resized(before, after)
    if after.phase != before.phase and after.phase in _PHASES:
        is_failure = after.phase == "Failed"
        changes.append(Change(after.phase, _PHASES[after.phase], is_warning=is_failure))
    return (*changes, *_served(before, after))


def _resized(before: JobStatus, after: JobStatus) -> list[Change]:
    """What became of trainers that had no place in the gang."""
    if after.attempt is None or before.attempt is None or _key(after) != _key(before):
        return []
    fewer, was = after.attempt.replicas, before.attempt.replicas
    if fewer == was:
        return []
    if fewer is None:
        return [Change("AllTrainersWanted", "all trainers are asked for again")]
    text = f"trainers beyond {fewer} are given back: they waited for the rest of a node unit"
    return [Change("SurplusGivenBack", text)]


def duration(stage: StageStatus) -> str:
    """How long a finished stage took."""
    return f"in {(stage.ended_at or 0) - (stage.started_at or 0)} s" if stage.ended_at else ""


def _served(before: JobStatus, after: JobStatus) -> tuple[Change, ...]:
    """What became of the service that the job asks for."""
    was, now = before.condition("Served"), after.condition("Served")
    if now is None or not now.message or (was and was.reason == now.reason):
        return ()
    if now.status == "True":
        return (Change("Serving", f"{now.message} serves the model"),)
    return (Change(now.reason, now.message, is_warning=True),)


def _ended(past: PastAttempt) -> Change:
    head = f"{past.stage}: attempt {past.number}"
    if past.outcome in ("Succeeded", "Skipped"):
        seconds = past.ended_at - past.created_at
        word = "skipped, its output is there" if past.outcome == "Skipped" else "done"
        return Change(f"Stage{past.outcome}", f"{past.stage}: {word} ({seconds} s)")
    code = "" if past.code is None else f", exit code {past.code}"
    rank = "" if past.rank is None else f", rank {past.rank}"
    charge = ", charged to the restart budget" if past.charged else ""
    message = f": {past.message}" if past.message else ""
    text = f"{head} ended ({past.cause}{code}{rank}{charge}){message}"
    return Change(f"Attempt{past.outcome}", text, is_warning=past.outcome == "Failed")


def _was_an_attempt(before: JobStatus, after: JobStatus, cause: str) -> bool:
    """Whether a counted restart was that of a whole attempt, which has a line of its own."""
    return any(past.cause == cause for past in _new(before, after))


def _new(before: JobStatus, after: JobStatus) -> list[PastAttempt]:
    return [past for past in after.history if past not in before.history]


def _key(status: JobStatus) -> tuple[str, int] | None:
    return (status.attempt.stage, status.attempt.number) if status.attempt else None
