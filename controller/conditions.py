"""Phase and metav1 conditions of a job, derived from the rest of its status. Pure."""

from dataclasses import replace
from typing import Final

from controller.observe import AttemptView, Observed
from controller.status import with_condition
from controller.summary import summary
from controller.workspace_claim import workspace_problem
from k8s.status import JobStatus, Phase, Truth
from pangu_core.errors import shorten

MESSAGE_LIMIT: Final = 1_000
Finding = tuple[Truth, str, str]  # status, reason, message


def with_conditions(
    status: JobStatus, observed: Observed, *, is_clear: bool, now: int
) -> JobStatus:
    """The status with phase and conditions that say what the rest of it means.

    Args:
        status: decided, but for phase and conditions.
        observed: what it was decided from.
        is_clear: no object of an attempt is left that has to go.
        now: unix seconds.
    """
    live = status.attempt
    view = observed.attempt(live.stage, live.number) if live else None
    running = _num_running(view)
    phase = _phase(status, view, is_suspended=observed.job.suspend, is_clear=is_clear)
    status = replace(status, phase=phase, summary=summary(status, observed.job, running=running))
    findings: dict[str, Finding] = {
        "Accepted": _accepted(observed),
        "Queued": _queued(observed, view),
        "Scheduled": _scheduled(observed, view),
        "Running": _running(status, running),
        "Progressing": _progressing(status, observed, view),
        "Suspended": _suspended(status),
        "Complete": _complete(status),
        "Failed": _failed(status),
    }
    for kind, (truth, reason, message) in findings.items():
        status = with_condition(status, kind, truth, reason=reason, message=message, now=now)
    return status


def _phase(
    status: JobStatus, view: AttemptView | None, *, is_suspended: bool, is_clear: bool
) -> Phase:
    if status.is_terminal:
        return status.phase
    if is_suspended:
        return "Suspended" if is_clear else "Suspending"
    was_running = status.attempt is not None and status.phase == "Running"
    is_held = view is not None and view.is_suspended
    if _num_running(view) or (was_running and not is_held):
        return "Running"
    if not status.attempt and any(p.outcome in ("Failed", "Stopped") for p in status.history[-1:]):
        return "Restarting"
    return "Pending"


def _num_running(view: AttemptView | None) -> int:
    return sum(pod.phase == "Running" for pod in view.pods) if view else 0


def _accepted(observed: Observed) -> Finding:
    problem = workspace_problem(observed)
    return ("False", problem.reason, problem.message) if problem else ("True", "Valid", "")


def _queued(observed: Observed, view: AttemptView | None) -> Finding:
    if not observed.job.is_queued:
        return "False", "NoQueue", ""
    if view and view.is_suspended:
        said = observed.admission
        if said is None:
            return "True", "WaitingForAdmission", "the queue has not admitted the pods yet"
        return "True", said.reason, shorten(said.message, MESSAGE_LIMIT)
    return "False", "Admitted" if view else "NoAttempt", ""


def _scheduled(observed: Observed, view: AttemptView | None) -> Finding:
    """Why pods do not run yet: what the API server, the operator, the scheduler or a kubelet says."""
    if observed.refusal:
        return "False", "Refused", shorten(observed.refusal, MESSAGE_LIMIT)
    if view is None:
        return "False", "NoPods", ""
    waiting = [(pod.name, pod.waiting) for pod in view.pods if pod.waiting]
    if waiting:
        name, why = waiting[0]
        others = f" (and {len(waiting) - 1} more)" if len(waiting) > 1 else ""
        return "False", why.reason, shorten(f"pod {name}{others}: {why.message}", MESSAGE_LIMIT)
    if view.trouble:
        return "False", view.trouble.reason, shorten(view.trouble.message, MESSAGE_LIMIT)
    if not view.pods:
        return "False", "NoPods", ""
    return "True", "AllPodsPlaced", ""


def _running(status: JobStatus, running: int) -> Finding:
    live = status.attempt
    if live and running:
        return "True", "PodsRunning", f"stage {live.stage}, attempt {live.number}"
    return "False", status.phase if status.phase != "Running" else "PodsStarting", ""


def _progressing(status: JobStatus, observed: Observed, view: AttemptView | None) -> Finding:
    """Unknown where no launcher answers: one that cannot be reached proves nothing."""
    live = status.attempt
    if live is None:
        hung = any(past.cause == "Hung" for past in status.history[-1:])
        return "False", "Hung" if hung and not status.is_terminal else status.phase, ""
    plan = next((p for p in observed.job.stages if p.name == live.stage), None)
    if plan and not plan.needs_manifest:
        return "True", "Working", f"stage {live.stage}"
    if view is None or view.progress is None:
        return "Unknown", "NoAnswer", "no launcher answers yet"
    return "True", "Stepping" if view.progress.phase == "step" else "Working", ""


def _suspended(status: JobStatus) -> Finding:
    if status.phase == "Suspended":
        return "True", "Suspended", "no pod is left"
    return "False", "Stopping" if status.phase == "Suspending" else "NotSuspended", ""


def _complete(status: JobStatus) -> Finding:
    return ("True", "AllStagesDone", "") if status.phase == "Complete" else ("False", "NotYet", "")


def _failed(status: JobStatus) -> Finding:
    if status.phase == "Cancelled":
        return "True", "Cancelled", "the job was cancelled; what it saved stays"
    if status.phase != "Failed":
        return "False", "NotFailed", ""
    last = status.history[-1]
    return "True", last.cause, f"stage {last.stage}, attempt {last.number}: {last.message}"
