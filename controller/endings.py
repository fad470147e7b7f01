"""How an attempt ends, and what that makes of its stage and of the job. Pure."""

from dataclasses import replace
from typing import Final

from controller.budget import charged, is_exhausted, retry_at
from controller.observe import JobView
from controller.status import with_history, with_restart, with_stage
from controller.usage import exhausted_at
from controller.verdict import Verdict, is_repeated
from k8s.status import JobStatus, PastAttempt, StageStatus
from pangu_core.errors import EXIT_STOPPED

# Causes that are a user's wish, not a mishap.
ASKED_FOR: Final = ("Suspended", "Cancelled", "Rerun")


def end(status: JobStatus, job: JobView, verdict: Verdict, now: int) -> JobStatus:
    """Close the live attempt with a verdict: budget, history, the stage, perhaps the job."""
    attempt = status.attempt
    assert attempt is not None
    word = verdict.termination
    past = PastAttempt(
        stage=attempt.stage,
        number=attempt.number,
        outcome=verdict.outcome,
        cause=verdict.cause,
        charged=verdict.charged,
        created_at=attempt.created_at,
        ended_at=now,
        code=verdict.code,
        message=verdict.message,
        rank=word.rank if word else None,
        step=word.step if word else (status.progress.step if status.progress else None),
    )
    stage = status.stage(attempt.stage)
    status = replace(status, attempt=None)
    if verdict.outcome in ("Succeeded", "Skipped"):
        return with_history(_with_success(status, stage, verdict, now), past)
    if verdict.charged:
        status = charged(status, job, now)
    status = replace(status, retry_at=retry_at(status, job, attempt, verdict, now))
    gives_up = verdict.charged and (is_exhausted(status, job) or is_repeated(past, status.history))
    status = with_history(status, past)
    if verdict.final or gives_up:
        return failed(status, stage, verdict.code, now)
    if verdict.cause not in ASKED_FOR:
        status = with_restart(status, verdict.cause)
    return with_stage(status, replace(stage, state="Pending"))


def _with_success(status: JobStatus, stage: StageStatus, verdict: Verdict, now: int) -> JobStatus:
    word = verdict.termination
    done = replace(
        stage,
        state="Skipped" if verdict.outcome == "Skipped" else "Succeeded",
        ended_at=now,
        output=word.output if word else None,
        manifest_sha256=word.manifest_sha256 if word else None,
    )
    status = replace(with_stage(status, done), retry_at=None)
    if done.state == "Succeeded":
        # It wrote anew what the later stages read: those kept from an earlier start run again.
        names = [each.name for each in status.stages]
        for later in status.stages[names.index(stage.name) + 1 :]:
            if later.is_done:
                status = with_stage(status, replace(later, state="Pending"))
    return status


def failed(status: JobStatus, stage: StageStatus, code: int | None, now: int) -> JobStatus:
    """The status of a job that fails with one of its stages."""
    status = with_stage(status, replace(stage, state="Failed", ended_at=now))
    return replace(status, phase="Failed", completed_at=now, retry_at=None, exit_code=code or 1)


def cancelled(status: JobStatus, job: JobView, now: int) -> JobStatus:
    """The status of a job that its user ended."""
    if status.attempt:
        stop = Verdict("Stopped", "Cancelled", message="the job is cancelled")
        status = end(status, job, stop, now)
    return replace(
        status, phase="Cancelled", completed_at=now, retry_at=None, exit_code=EXIT_STOPPED
    )


def deadline(status: JobStatus, job: JobView) -> int | None:
    """When the job has run for as long as it may."""
    if job.deadline_seconds is None or status.started_at is None:
        return None
    return status.started_at + job.deadline_seconds


def past_limit(status: JobStatus, job: JobView, now: int) -> JobStatus | None:
    """The status of a job that ran for too long or used too much; None: it goes on."""
    limit, exhausted = deadline(status, job), exhausted_at(status, job)
    if limit is not None and now >= limit:
        message = f"the job ran for limits.deadlineSeconds ({job.deadline_seconds} s)"
        return _stopped_by(status, job, "DeadlineExceeded", message, now)
    if exhausted is not None and now >= exhausted:
        message = f"the job used limits.gpuHours ({job.gpu_hours:g} hours)"
        return _stopped_by(status, job, "GpuHoursExceeded", message, now)
    return None


def _stopped_by(status: JobStatus, job: JobView, cause: str, message: str, now: int) -> JobStatus:
    verdict = Verdict("Failed", cause, message=message, final=True)
    if status.attempt:
        return end(status, job, verdict, now)
    stage = next(s for s in status.stages if not s.is_done)
    past = PastAttempt(
        stage.name, stage.attempt, "Failed", verdict.cause, charged=False,
        created_at=now, ended_at=now, message=message,
    )  # fmt: skip
    return failed(with_history(status, past), stage, None, now)
