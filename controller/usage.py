"""GPU-seconds of a job: how many its pods hold, and which of them were of no use. Pure.

The status keeps totals up to a moment and the rates since then; so it changes only with the rates,
and anybody can work out the present totals.
"""

from dataclasses import replace
from typing import Final

from controller.observe import AttemptView, JobView, Observed
from controller.size import surplus_pods
from k8s import names
from k8s.status import GpuUsage, JobStatus

SECONDS_PER_HOUR: Final = 3_600
# A round's phases before its first step, in which no GPU computes anything that lasts.
_BEFORE_STEPS: Final = ("wait", "start", "compile")


def counted(usage: GpuUsage, now: int) -> GpuUsage:
    """The totals up to now."""
    if usage.counted_at is None:
        return replace(usage, counted_at=now)
    seconds = max(0, now - usage.counted_at)
    useful_or_not = {usage.doing: (usage.held - usage.surplus) * seconds}
    return replace(
        usage,
        used_seconds=usage.used_seconds + usage.held * seconds,
        waiting_seconds=usage.waiting_seconds + useful_or_not.get("wait", 0),
        redone_seconds=usage.redone_seconds + useful_or_not.get("redo", 0),
        surplus_seconds=usage.surplus_seconds + usage.surplus * seconds,
        counted_at=now,
    )


def with_usage(status: JobStatus, observed: Observed, now: int) -> JobStatus:
    """The status with what its pods hold now; written anew with the rates, or beside progress."""
    before = status.gpu or GpuUsage()
    after = _with_rates(before, status, observed)
    is_written_anyway = status.progress is not None and status.progress.updated_at == now
    if after == before and not (is_written_anyway and before.held):
        return status
    totals = replace(
        counted(before, now),
        held=after.held,
        surplus=after.surplus,
        doing=after.doing,
        furthest_step=after.furthest_step,
    )
    return replace(status, gpu=totals)


def exhausted_at(status: JobStatus, job: JobView) -> int | None:
    """When the job has used all the GPU-hours that it may, if it goes on as now."""
    usage = status.gpu
    if job.gpu_hours is None or usage is None or usage.counted_at is None:
        return None
    left = job.gpu_hours * SECONDS_PER_HOUR - usage.used_seconds
    if left <= 0:
        return usage.counted_at
    return usage.counted_at + -int(-left // usage.held) if usage.held else None


def _with_rates(before: GpuUsage, status: JobStatus, observed: Observed) -> GpuUsage:
    each = {plan.name: plan.gpus for plan in observed.job.stages}
    held = sum(_running(view) * each.get(view.stage, 0) for view in observed.attempts)
    if not held:
        return replace(before, held=0, surplus=0, doing="nothing")
    live = status.attempt
    view = observed.attempt(live.stage, live.number) if live else None
    furthest = max(before.furthest_step, status.progress.step if status.progress else 0)
    answer = view.progress if view else None
    if live is None or view is None or answer is None:
        doing = before.doing if before.doing != "nothing" else "wait"
        if live and live.stage != names.TRAIN:
            doing = "train"  # a stage of one pod works from its start to its end
        known = min(before.surplus, held)
        return replace(before, held=held, surplus=known, doing=doing, furthest_step=furthest)
    surplus = surplus_pods(view, observed.job) * each.get(view.stage, 0)
    is_redone = answer.step < furthest
    doing = "wait" if answer.phase in _BEFORE_STEPS else "redo" if is_redone else "train"
    return replace(before, held=held, surplus=surplus, doing=doing, furthest_step=furthest)


def _running(view: AttemptView) -> int:
    return sum(pod.phase == "Running" for pod in view.pods)
