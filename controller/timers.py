"""When to look at a job again though nothing happened. Pure."""

from controller.endings import deadline
from controller.observe import Observed
from controller.served import look_at
from controller.status import PROGRESS_PERIOD_SECONDS
from controller.upkeep import kill_at, remove_at
from controller.usage import exhausted_at
from controller.workspace_claim import workspace_problem
from k8s.status import JobStatus


def requeue_at(status: JobStatus, observed: Observed, now: int) -> float | None:
    """The earliest time at which something is due without any event."""
    job, live = observed.job, status.attempt
    due = (
        []
        if status.is_terminal
        else [status.retry_at, deadline(status, job), exhausted_at(status, job)]
    )
    if live:
        due.append(now + PROGRESS_PERIOD_SECONDS)
        if live.short_since is not None and job.pending_seconds is not None:
            due.append(live.short_since + job.pending_seconds)
        if live.surplus_since is not None and job.surplus_seconds is not None:
            due.append(live.surplus_since + job.surplus_seconds)
        due.append(live.regrow_at)
    if not live and not status.is_terminal and workspace_problem(observed):
        due.append(now + PROGRESS_PERIOD_SECONDS)  # a claim tells nobody when it is made
    due += [look_at(status, observed, now), remove_at(status, job)]
    for view in observed.attempts:
        due += [at for pod in view.pods if (at := kill_at(pod)) is not None and at > now]
        stage = status.stage(view.stage)
        if stage.is_done and stage.attempt == view.number and not view.is_finished:
            due.append((stage.ended_at or 0) + job.grace_seconds)
    return min((float(t) for t in due if t is not None), default=None)
