"""What changed between two statuses, as sentences for people: one line each. Pure."""

from typing import Final

from k8s.status import JobStatus, PastAttempt, StageStatus

_PHASES: Final = {
    "Suspending": "stopping: pods save what they have and end",
    "Suspended": "stopped; run again to continue",
    "Complete": "complete",
    "Failed": "failed",
}


def transitions(before: JobStatus, after: JobStatus) -> tuple[str, ...]:
    """Sentences for every change worth a line, in the order in which they happened."""
    lines = [_ended(past) for past in _new(before, after) if past.cause != "Suspended"]
    lines += [
        f"a pod was replaced ({cause})"
        for cause, count in after.restarts.items()
        if count > before.restarts.get(cause, 0) and not _was_an_attempt(before, after, cause)
    ]
    if after.retry_at and after.retry_at != before.retry_at and after.history:
        wait = after.retry_at - after.history[-1].ended_at
        lines.append(f"the next attempt starts in {wait} s")
    if after.attempt and _key(after) != _key(before):
        lines.append(f"{after.attempt.stage}: attempt {after.attempt.number} starts")
    if after.phase != before.phase and after.phase in _PHASES:
        lines.append(_PHASES[after.phase])
    return tuple(lines)


def duration(stage: StageStatus) -> str:
    """How long a finished stage took."""
    return f"in {(stage.ended_at or 0) - (stage.started_at or 0)} s" if stage.ended_at else ""


def _ended(past: PastAttempt) -> str:
    head = f"{past.stage}: attempt {past.number}"
    if past.outcome in ("Succeeded", "Skipped"):
        seconds = past.ended_at - past.created_at
        word = "skipped, its output is there" if past.outcome == "Skipped" else "done"
        return f"{past.stage}: {word} ({seconds} s)"
    code = "" if past.code is None else f", exit code {past.code}"
    rank = "" if past.rank is None else f", rank {past.rank}"
    charge = ", charged to the restart budget" if past.charged else ""
    message = f": {past.message}" if past.message else ""
    return f"{head} ended ({past.cause}{code}{rank}{charge}){message}"


def _was_an_attempt(before: JobStatus, after: JobStatus, cause: str) -> bool:
    """Whether a counted restart was that of a whole attempt, which has a line of its own."""
    return any(past.cause == cause for past in _new(before, after))


def _new(before: JobStatus, after: JobStatus) -> list[PastAttempt]:
    return [past for past in after.history if past not in before.history]


def _key(status: JobStatus) -> tuple[str, int] | None:
    return (status.attempt.stage, status.attempt.number) if status.attempt else None
