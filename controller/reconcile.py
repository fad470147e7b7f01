"""Decides what to do next for one job: pure, so that tests can run it through any order of events.

The one who calls it ("the rim": the cluster's manager, or the local runtime) must

* write the status before carrying out the actions: an attempt is then never forgotten;
* see its own writes in the next observation;
* take a Create of what is there already, and a Delete of what is gone, as done.

There is at most one live attempt, and its objects are created only when no object of an earlier
attempt is left, but for the finished pods of successful stages, which stay for their logs.
"""

import math
from dataclasses import dataclass, replace
from typing import Final

from controller.actions import Action
from controller.budget import charged, is_eldest, is_exhausted
from controller.conditions import with_conditions
from controller.endings import cancelled, end, past_limit
from controller.notices import with_notice
from controller.observe import AttemptView, JobView, Observed, StagePlan
from controller.served import serve_actions, with_served
from controller.size import needs_new_size, with_surplus
from controller.status import PROGRESS_PERIOD_SECONDS, rerun, with_restart, with_stage
from controller.timers import requeue_at
from controller.upkeep import actions_for, leftovers
from controller.usage import with_usage
from controller.verdict import Verdict, gone, judge, replacements, waits_too_long
from controller.workspace_claim import workspace_problem
from k8s import names
from k8s.status import Attempt, JobStatus, ProgressStatus
from pangu_core.messages import Progress

# Phases in which a launcher does not know yet from which step its ranks go on.
NO_STEP_YET: Final = ("wait", "start")


@dataclass(frozen=True)
class Decision:
    """What to do, what to remember, and when to look again at the latest (unix seconds)."""

    actions: tuple[Action, ...]
    status: JobStatus
    requeue_at: float | None


def reconcile(observed: Observed, now: float) -> Decision:
    """Decide for one job; the same input always gives the same answer.

    A second call with the new status, after the actions are carried out and seen, has no action
    and the same status.
    """
    clock = math.floor(now)
    job = observed.job
    status = _with_plan(observed.status, job)
    status = _follow(status, observed, clock)
    status = with_usage(status, observed, clock)
    status = _run_again(status, job, clock)
    if not status.is_terminal:
        is_ready = not leftovers(status, observed, clock) and not workspace_problem(observed)
        status = _advance(status, job, is_ready=is_ready, now=clock)
    is_clear = not leftovers(status, observed, clock)  # a stop leaves something over
    status = with_conditions(status, observed, is_clear=is_clear, now=clock)
    status = with_notice(with_served(status, observed, now=clock), observed)
    due = requeue_at(status, observed, clock)
    actions = (*serve_actions(status, observed), *actions_for(status, observed, clock))
    return Decision(actions, status, due)


def _run_again(status: JobStatus, job: JobView, now: int) -> JobStatus:
    """Take up a request to run again from a stage, once."""
    if job.rerun_number <= status.reruns:
        return status
    is_before = False
    if status.attempt:
        order = names.STAGES.index
        is_before = order(status.attempt.stage) < order(job.rerun_from)
    if status.attempt and not is_before:
        stop = Verdict("Stopped", "Rerun", message=f"the job runs again from {job.rerun_from}")
        status = end(status, job, stop, now)
    return replace(rerun(status, first=job.rerun_from), reruns=job.rerun_number)


def _with_plan(status: JobStatus, job: JobView) -> JobStatus:
    stages = tuple(status.stage(plan.name) for plan in job.stages)
    return replace(status, stages=stages, observed_generation=job.generation)


def _follow(status: JobStatus, observed: Observed, now: int) -> JobStatus:
    """Take in what happened to the live attempt."""
    attempt, job = status.attempt, observed.job
    if attempt is None:
        return status
    plan = next((p for p in job.stages if p.name == attempt.stage), None)
    view = observed.attempt(attempt.stage, attempt.number)
    if plan is None:
        return end(status, job, gone(), now)
    if view is None or not (view.has_main or attempt.seen):
        return end(status, job, gone(), now) if attempt.seen else status
    attempt = _counted(attempt, plan, view, observed, now)
    status = _with_progress(replace(status, attempt=attempt), plan, view, now)
    verdict = judge(plan, attempt, view, job=job, now=now)
    if verdict:
        return end(status, job, verdict, now)
    step = status.progress.step if status.progress else None
    attempt, ended = replacements(attempt, view, step=step)
    status = replace(status, attempt=attempt)
    for lost in ended:
        status = with_restart(status, lost.cause)
        if lost.charged:
            status = charged(status, job, now)
            if is_exhausted(status, job):
                code = next(e.code for e in reversed(attempt.exits))
                return end(status, job, Verdict("Failed", lost.cause, code, final=True), now)
    return status


def _counted(
    attempt: Attempt, plan: StagePlan, view: AttemptView, observed: Observed, now: int
) -> Attempt:
    """The live attempt, marked as seen, with since when it has too few pods, or too many."""
    running = sum(p.phase != "Pending" and p.phase != "Failed" for p in view.pods)
    short = running < plan.min_pods and not view.is_suspended  # a queue's wait has no limit here
    before = attempt.short_since
    since = (now if before is None else before) if short else None
    attempt = replace(attempt, seen=attempt.seen or view.has_main, short_since=since)
    if waits_too_long(attempt, observed.job, now) and is_eldest(observed.job, observed.rivals):
        # The others make room, which takes a while. Where that brought nothing, it is their turn.
        is_nearer = attempt.kept_pods is None or running > attempt.kept_pods
        attempt = replace(attempt, short_since=now, kept_pods=running) if is_nearer else attempt
    return with_surplus(attempt, view, observed.job, now)


def _goes_back(answer: Progress, before: ProgressStatus) -> bool:
    return answer.phase not in NO_STEP_YET and answer.step < before.step


def _with_progress(status: JobStatus, plan: StagePlan, view: AttemptView, now: int) -> JobStatus:
    answer, before = view.progress, status.progress
    if answer is None:
        return status
    is_news = before is None or answer.phase != before.phase or _goes_back(answer, before)
    if before and not is_news and now - before.updated_at < PROGRESS_PERIOD_SECONDS:
        return status
    speed = answer.tokens_per_second
    eta = None
    if speed and plan.tokens_per_step:
        eta = int(max(0, answer.steps - answer.step) * plan.tokens_per_step / speed)
    progress = ProgressStatus(
        phase=answer.phase,
        step=max(answer.step, before.step if before and answer.phase in NO_STEP_YET else 0),
        steps=answer.steps,
        updated_at=now,
        loss=answer.loss,
        validation_loss=answer.validation_loss,
        tokens_per_second=speed,
        eta_seconds=eta,
    )
    return replace(status, progress=progress)


def _advance(status: JobStatus, job: JobView, *, is_ready: bool, now: int) -> JobStatus:
    """Move a job that has not ended: suspend it, end it, or start its next attempt."""
    if all(stage.is_done for stage in status.stages):
        return replace(status, phase="Complete", completed_at=now, exit_code=0)
    if job.cancel:
        return cancelled(status, job, now)
    if job.suspend:
        if status.attempt:
            stop = Verdict("Stopped", "Suspended", message="the job is suspended")
            status = end(status, job, stop, now)
        return replace(status, started_at=None, retry_at=None)
    over = past_limit(status, job, now)
    if over is not None:
        return over
    if status.attempt and needs_new_size(status.attempt, job):
        stop = Verdict("Stopped", "Resized", message=f"{job.min_nodes} to {job.max_nodes} nodes")
        return end(status, job, stop, now)
    if status.attempt or not is_ready or now < (status.retry_at or 0):
        return status
    plan = next(p for p in job.stages if not status.stage(p.name).is_done)
    return _started(status, plan, job, now)


def _started(status: JobStatus, plan: StagePlan, job: JobView, now: int) -> JobStatus:
    before = status.stage(plan.name)
    number = before.attempt + 1
    stage = replace(
        before,
        state="Running",
        attempt=number,
        settings_hash=plan.settings_hash,
        started_at=now if before.started_at is None else before.started_at,
        ended_at=None,
    )
    return replace(
        with_stage(status, stage),
        attempt=Attempt(
            plan.name,
            number,
            created_at=now,
            short_since=now,
            min_nodes=job.min_nodes if plan.needs_manifest else None,
            max_nodes=job.max_nodes if plan.needs_manifest else None,
        ),
        retry_at=None,
        started_at=now if status.started_at is None else status.started_at,
    )
