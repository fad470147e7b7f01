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

from controller.budget import charged, is_exhausted, retry_at
from controller.conditions import with_conditions
from controller.observe import AttemptView, JobView, Observed, PodView, StagePlan
from controller.size import needs_new_size
from controller.status import PROGRESS_PERIOD_SECONDS, with_history, with_restart, with_stage
from controller.verdict import Verdict, gone, is_repeated, judge, replacements
from controller.workspace_claim import workspace_problem
from k8s.status import Attempt, JobStatus, PastAttempt, ProgressStatus, StageStatus


@dataclass(frozen=True)
class Create:
    """Create every object of a stage's attempt."""

    stage: str
    attempt: int


@dataclass(frozen=True)
class Delete:
    """Delete an attempt's Job or PyTorchJob in the foreground, and its ConfigMap.

    Its pods get their grace period, and keep their store: they agree through it how to stop.
    """

    stage: str
    attempt: int


@dataclass(frozen=True)
class Release:
    """Delete an attempt's store, once none of its pods is active; finished pods stay."""

    stage: str
    attempt: int


@dataclass(frozen=True)
class Scale:
    """Set how many workers a PyTorchJob asks for."""

    stage: str
    attempt: int
    replicas: int


@dataclass(frozen=True)
class Kill:
    """Delete a pod at once, without waiting for its node, which is lost."""

    pod: str
    uid: str


@dataclass(frozen=True)
class MakeClaim:
    """Create the workspace's claim."""


@dataclass(frozen=True)
class Remove:
    """Delete the job itself: its time to live after its end is over."""


Action = Create | Delete | Release | Scale | Kill | MakeClaim | Remove


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
    if not status.is_terminal:
        is_ready = not _leftovers(status, observed, clock) and not workspace_problem(observed)
        status = _advance(status, job, is_ready=is_ready, now=clock)
    is_clear = not _leftovers(status, observed, clock)  # a stop leaves something over
    status = with_conditions(status, observed, is_clear=is_clear, now=clock)
    actions = _actions(status, observed, clock)
    return Decision(actions, status, _requeue_at(status, observed, clock))


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
        return _end(status, job, gone(), now)
    if view is None or not (view.has_main or attempt.seen):
        return _end(status, job, gone(), now) if attempt.seen else status
    attempt = _counted(attempt, plan, view, now)
    status = _with_progress(replace(status, attempt=attempt), plan, view, now)
    verdict = judge(plan, attempt, view, job=job, now=now)
    if verdict:
        return _end(status, job, verdict, now)
    step = status.progress.step if status.progress else None
    attempt, ended = replacements(attempt, view, step=step)
    status = replace(status, attempt=attempt)
    for end in ended:
        status = with_restart(status, end.cause)
        if end.charged:
            status = charged(status, job, now)
            if is_exhausted(status, job):
                code = next(e.code for e in reversed(attempt.exits))
                return _end(status, job, Verdict("Failed", end.cause, code, final=True), now)
    return status


def _counted(attempt: Attempt, plan: StagePlan, view: AttemptView, now: int) -> Attempt:
    """The live attempt, marked as seen, with the time since when it is short of pods."""
    running = sum(p.phase != "Pending" and p.phase != "Failed" for p in view.pods)
    short = running < plan.min_pods and not view.is_suspended  # a queue's wait has no limit here
    before = attempt.short_since
    since = (now if before is None else before) if short else None
    return replace(attempt, seen=attempt.seen or view.has_main, short_since=since)


def _with_progress(status: JobStatus, plan: StagePlan, view: AttemptView, now: int) -> JobStatus:
    answer, before = view.progress, status.progress
    if answer is None:
        return status
    is_news = before is None or answer.phase != before.phase or answer.step < before.step
    if before and not is_news and now - before.updated_at < PROGRESS_PERIOD_SECONDS:
        return status
    speed = answer.tokens_per_second
    eta = None
    if speed and plan.tokens_per_step:
        eta = int(max(0, answer.steps - answer.step) * plan.tokens_per_step / speed)
    progress = ProgressStatus(
        phase=answer.phase,
        step=max(answer.step, before.step if before and answer.phase == "start" else 0),
        steps=answer.steps,
        updated_at=now,
        loss=answer.loss,
        validation_loss=answer.validation_loss,
        tokens_per_second=speed,
        eta_seconds=eta,
    )
    return replace(status, progress=progress)


def _end(status: JobStatus, job: JobView, verdict: Verdict, now: int) -> JobStatus:
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
        return _failed(status, stage, verdict.code, now)
    if verdict.cause != "Suspended":
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


def _failed(status: JobStatus, stage: StageStatus, code: int | None, now: int) -> JobStatus:
    status = with_stage(status, replace(stage, state="Failed", ended_at=now))
    return replace(status, phase="Failed", completed_at=now, retry_at=None, exit_code=code or 1)


def _advance(status: JobStatus, job: JobView, *, is_ready: bool, now: int) -> JobStatus:
    """Move a job that has not ended: suspend it, end it, or start its next attempt."""
    if job.suspend:
        if status.attempt:
            stop = Verdict("Stopped", "Suspended", message="the job is suspended")
            status = _end(status, job, stop, now)
        return replace(status, started_at=None, retry_at=None)
    if all(stage.is_done for stage in status.stages):
        return replace(status, phase="Complete", completed_at=now, exit_code=0)
    deadline = _deadline(status, job)
    if deadline is not None and now >= deadline:
        return _past_deadline(status, job, now)
    if status.attempt and needs_new_size(status.attempt, job):
        stop = Verdict("Stopped", "Resized", message=f"{job.min_nodes} to {job.max_nodes} nodes")
        return _end(status, job, stop, now)
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


def _deadline(status: JobStatus, job: JobView) -> int | None:
    if job.deadline_seconds is None or status.started_at is None:
        return None
    return status.started_at + job.deadline_seconds


def _past_deadline(status: JobStatus, job: JobView, now: int) -> JobStatus:
    message = f"the job ran for limits.deadlineSeconds ({job.deadline_seconds} s)"
    verdict = Verdict("Failed", "DeadlineExceeded", message=message, final=True)
    if status.attempt:
        return _end(status, job, verdict, now)
    stage = next(s for s in status.stages if not s.is_done)
    past = PastAttempt(
        stage.name, stage.attempt, "Failed", verdict.cause, charged=False,
        created_at=now, ended_at=now, message=message,
    )  # fmt: skip
    return _failed(with_history(status, past), stage, None, now)


def _actions(status: JobStatus, observed: Observed, now: int) -> tuple[Action, ...]:
    """What brings the objects in line with the status."""
    actions: list[Action] = []
    job, live = observed.job, status.attempt
    if job.claim and job.makes_claim and observed.claim is None and not status.is_terminal:
        actions.append(MakeClaim())
    if live and not live.seen:
        actions.append(Create(live.stage, live.number))
    leftovers = _leftovers(status, observed, now)
    for view in observed.attempts:
        if view in leftovers and not view.deleting:
            actions.append(Delete(view.stage, view.number))
        elif view.has_helpers and not _is_live(status, view) and not _is_active(view):
            actions.append(Release(view.stage, view.number))
        actions += [Kill(p.name, p.uid) for p in view.pods if now >= (_kill_at(p) or math.inf)]
    actions += _scaling(status, observed)
    if now >= (_remove_at(status, job) or math.inf):
        actions.append(Remove())
    return tuple(actions)


def _scaling(status: JobStatus, observed: Observed) -> list[Action]:
    """Ask for as many workers as the job wants now; a queue's own business is left to it."""
    live, job = status.attempt, observed.job
    view = observed.attempt(live.stage, live.number) if live else None
    if view is None or view.replicas is None or not view.has_main or job.is_queued:
        return []
    wanted = job.max_nodes
    return [Scale(view.stage, view.number, wanted)] if view.replicas != wanted else []


def _kill_at(pod: PodView) -> int | None:
    """When a pod of a lost node is past its grace period: its kubelet will never say that it ended.

    What it may still write is fenced: a later attempt owns the run, or a later round.
    """
    return pod.kill_at if pod.is_lost else None


def _remove_at(status: JobStatus, job: JobView) -> int | None:
    if job.ttl_seconds is None or not status.is_terminal or status.completed_at is None:
        return None
    return status.completed_at + job.ttl_seconds


def _leftovers(status: JobStatus, observed: Observed, now: int) -> tuple[AttemptView, ...]:
    """Attempts whose objects have to go."""
    return tuple(a for a in observed.attempts if _is_leftover(status, observed.job, a, now))


def _is_live(status: JobStatus, view: AttemptView) -> bool:
    live = status.attempt
    return live is not None and (live.stage, live.number) == (view.stage, view.number)


def _is_active(view: AttemptView) -> bool:
    return any(pod.is_active for pod in view.pods)


def _is_leftover(status: JobStatus, job: JobView, view: AttemptView, now: int) -> bool:
    if _is_live(status, view):
        return False
    stage = status.stage(view.stage)
    is_success = stage.is_done and stage.attempt == view.number
    if is_success and not view.is_finished:
        # Its other pods are about to end by themselves; the manifest is already there.
        return now >= (stage.ended_at or 0) + job.grace_seconds
    return not (view.is_finished and (is_success or status.is_terminal))


def _requeue_at(status: JobStatus, observed: Observed, now: int) -> float | None:
    """The earliest time at which something is due without any event."""
    job, live = observed.job, status.attempt
    due = [] if status.is_terminal else [status.retry_at, _deadline(status, job)]
    if live:
        due.append(now + PROGRESS_PERIOD_SECONDS)
        if live.short_since is not None and job.pending_seconds is not None:
            due.append(live.short_since + job.pending_seconds)
    if not live and not status.is_terminal and workspace_problem(observed):
        due.append(now + PROGRESS_PERIOD_SECONDS)  # a claim tells nobody when it is made
    due.append(_remove_at(status, job))
    for view in observed.attempts:
        due += [at for pod in view.pods if (at := _kill_at(pod)) is not None and at > now]
        stage = status.stage(view.stage)
        if stage.is_done and stage.attempt == view.number and not view.is_finished:
            due.append((stage.ended_at or 0) + job.grace_seconds)
    return min((float(t) for t in due if t is not None), default=None)
