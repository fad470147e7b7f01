"""Brings a job's objects in line with its status: which are made, which have to go. Pure."""

import math

from controller.actions import Action, Create, Delete, Kill, MakeClaim, Release, Remove, Scale
from controller.notices import is_notice, is_outdated, is_under_way, notice_actions
from controller.observe import AttemptView, JobView, Observed, PodView
from controller.size import wanted_replicas
from k8s.status import JobStatus


def actions_for(status: JobStatus, observed: Observed, now: int) -> tuple[Action, ...]:
    """What brings the objects in line with the status."""
    found: list[Action] = []
    job, live = observed.job, status.attempt
    if job.claim and job.makes_claim and observed.claim is None and not status.is_terminal:
        found.append(MakeClaim())
    if live and not live.seen:
        found.append(Create(live.stage, live.number))
    over = leftovers(status, observed, now)
    for view in observed.attempts:
        if view in over and not view.deleting:
            found.append(Delete(view.stage, view.number))
        elif view.has_helpers and not _is_live(status, view) and not _is_active(view):
            found.append(Release(view.stage, view.number))
        found += [Kill(p.name, p.uid) for p in view.pods if now >= (kill_at(p) or math.inf)]
    found += _scaling(status, observed)
    found += notice_actions(status, job)
    if not (over or is_under_way(status, observed)) and now >= (remove_at(status, job) or math.inf):
        found.append(Remove())
    return tuple(found)


def _scaling(status: JobStatus, observed: Observed) -> list[Action]:
    """Ask for as many workers as the job wants now; a queue's own business is left to it."""
    live, job = status.attempt, observed.job
    view = observed.attempt(live.stage, live.number) if live else None
    if live is None or view is None or view.replicas is None or not view.has_main or job.is_queued:
        return []
    wanted = wanted_replicas(live, job)
    return [Scale(view.stage, view.number, wanted)] if view.replicas != wanted else []


def kill_at(pod: PodView) -> int | None:
    """When a pod of a lost node is past its grace period: its kubelet will never say that it ended.

    What it may still write is fenced: a later attempt owns the run, or a later round.
    """
    return pod.kill_at if pod.is_lost else None


def remove_at(status: JobStatus, job: JobView) -> int | None:
    """When the time to live of an ended job is over."""
    if job.ttl_seconds is None or not status.is_terminal or status.completed_at is None:
        return None
    return status.completed_at + job.ttl_seconds


def leftovers(status: JobStatus, observed: Observed, now: int) -> tuple[AttemptView, ...]:
    """Attempts whose objects have to go."""
    return tuple(a for a in observed.attempts if _is_leftover(status, observed.job, a, now))


def _is_live(status: JobStatus, view: AttemptView) -> bool:
    live = status.attempt
    return live is not None and (live.stage, live.number) == (view.stage, view.number)


def _is_active(view: AttemptView) -> bool:
    return any(pod.is_active for pod in view.pods)


def _is_leftover(status: JobStatus, job: JobView, view: AttemptView, now: int) -> bool:
    if is_notice(view):
        return is_outdated(status, view)
    if _is_live(status, view):
        return False
    stage = status.stage(view.stage)
    is_success = stage.is_done and stage.attempt == view.number
    if is_success and not view.is_finished:
        # Its other pods are about to end by themselves; the manifest is already there.
        return now >= (stage.ended_at or 0) + job.grace_seconds
    return not (view.is_finished and (is_success or status.is_terminal))
