"""Judges one attempt: from what its pods said last, and from its objects' conditions. Pure.

The rules are those of pangu_core/errors.py: 0 complete; 2 ends the job; 1 and 3 to 127 end the
attempt; 128 and above replace the pod only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from controller.observe import AttemptView, JobView, PodView, StagePlan
from k8s.status import Attempt, Outcome, PastAttempt, PodExit
from pangu_core.errors import EXIT_STOPPED, ConfigError, RendezvousError, StallError, shorten
from pangu_core.messages import Termination

MESSAGE_LIMIT: Final = 1_000
PENDING_TOO_LONG: Final = "PendingTooLong"
FIRST_REPLACING_CODE: Final = 128
# The kubelet's reason, and the launcher's word for it when the kernel killed one of its ranks.
OUT_OF_MEMORY: Final = "OOMKilled"
REPLACEMENT_CAUSES: Final = {EXIT_STOPPED: "Preempted", RendezvousError.exit_code: "PeersLost"}


@dataclass(frozen=True)
class Verdict:
    """How an attempt ended."""

    outcome: Outcome
    cause: str
    code: int | None = None
    message: str = ""
    charged: bool = False
    final: bool = False  # the job fails with it, whatever the budget says
    termination: Termination | None = None


@dataclass(frozen=True)
class Replacement:
    """The end of a pod that the operator replaces while the attempt goes on."""

    cause: str
    charged: bool


def judge(
    plan: StagePlan, attempt: Attempt, view: AttemptView, *, job: JobView, now: int
) -> Verdict | None:
    """The verdict on a live attempt that was seen; None: it goes on."""
    return (
        _success(plan, view)
        or _failed_pod(view)
        or _object_verdict(plan, view)
        or _pending_too_long(attempt, job, now)
        or _stalled(view, job)
    )


def replacements(
    attempt: Attempt, view: AttemptView, *, step: int | None
) -> tuple[Attempt, tuple[Replacement, ...]]:
    """Pods that ended with 128 and above and were not counted yet.

    Args:
        attempt: what was counted so far.
        view: what is there now.
        step: last training step known; a code repeated without a higher one is charged.
    """
    exits = {e.replica: e for e in attempt.exits}
    present = {pod.uid for pod in view.pods}
    found = []
    for pod in sorted(view.pods, key=lambda p: (p.finished_at or 0, p.name)):
        before = exits.get(pod.replica)
        counted = before.pod_uids if before else ()
        if not _is_replaced(pod) or pod.uid in counted:
            continue
        known = (*(uid for uid in counted if uid in present), pod.uid)
        after = PodExit(pod.replica, pod.exit_code or -1, _latest(pod, step), known)
        found.append(_replacement(pod, before, after))
        exits[pod.replica] = after
    return replace(attempt, exits=tuple(exits[name] for name in sorted(exits))), tuple(found)


def is_repeated(past: PastAttempt, history: Sequence[PastAttempt]) -> bool:
    """Whether an error said the same words as the attempt before, with no step won in between.

    A third try would say them again. What brought no words of its own (a signal, a stall, an
    object's condition) proves nothing.
    """
    before = history[-1] if history else None
    if before is None or not past.message or past.code is None:
        return False
    if past.code == StallError.exit_code or (past.step or 0) > (before.step or 0):
        return False
    return _words(past) == _words(before)


def gone() -> Verdict:
    """The verdict on an attempt whose objects somebody else removed."""
    return Verdict("Stopped", "ObjectsGone", message="the attempt's objects are gone")


def _words(past: PastAttempt) -> tuple[str, int | None, str, str]:
    return past.stage, past.code, past.cause, past.message


def _is_replaced(pod: PodView) -> bool:
    if pod.phase != "Failed":
        return False
    return pod.exit_code is None or pod.exit_code >= FIRST_REPLACING_CODE


def _latest(pod: PodView, step: int | None) -> int | None:
    said = pod.termination.step if pod.termination else None
    return max((s for s in (said, step) if s is not None), default=None)


def _replacement(pod: PodView, before: PodExit | None, after: PodExit) -> Replacement:
    if pod.disrupted or pod.exit_code is None:
        return Replacement("Preempted", charged=False)
    if OUT_OF_MEMORY in (pod.reason, pod.termination.error if pod.termination else None):
        return Replacement(OUT_OF_MEMORY, charged=True)
    cause = REPLACEMENT_CAUSES.get(pod.exit_code, "Killed")
    repeated = before is not None and before.code == after.code
    advanced = repeated and before is not None and (after.step or 0) > (before.step or 0)
    return Replacement(cause, charged=repeated and not advanced)


def _success(plan: StagePlan, view: AttemptView) -> Verdict | None:
    for pod in view.pods:
        word = pod.termination
        if pod.exit_code != 0 or (plan.needs_manifest and not (word and word.manifest_sha256)):
            continue
        skipped = word is not None and word.skipped
        return Verdict("Skipped" if skipped else "Succeeded", "Finished", code=0, termination=word)
    if view.succeeded and not plan.needs_manifest:
        return Verdict("Succeeded", "Finished", code=0)
    return None


def _failed_pod(view: AttemptView) -> Verdict | None:
    """The verdict of the pod that failed first, a wrong configuration before all others."""
    bad = [p for p in view.pods if p.exit_code and 0 < p.exit_code < FIRST_REPLACING_CODE]
    if not bad:
        return None
    wrong = ConfigError.exit_code
    pod = min(bad, key=lambda p: (p.exit_code != wrong, p.finished_at or 0, p.name))
    word = pod.termination
    if pod.disrupted and pod.exit_code != wrong:
        return Verdict("Stopped", "Preempted", code=pod.exit_code, termination=word)
    return Verdict(
        "Failed",
        (word.error if word and word.error else "Error"),
        code=pod.exit_code,
        message=shorten(word.message if word else pod.message, MESSAGE_LIMIT),
        charged=pod.exit_code != wrong,
        final=pod.exit_code == wrong,
        termination=word,
    )


def _object_verdict(plan: StagePlan, view: AttemptView) -> Verdict | None:
    if not view.has_main:
        return gone()
    if view.failed:
        return Verdict("Failed", "ObjectFailed", message=view.failure, charged=True)
    if any(p.is_active for p in view.pods):
        return None
    if plan.needs_manifest and view.succeeded:
        return Verdict(
            "Failed",
            "NoManifest",
            message="a pod exited 0, and no checkpoint's manifest was named",
            charged=True,
        )
    return None


def waits_too_long(attempt: Attempt, job: JobView, now: int) -> bool:
    """Whether an attempt has had fewer pods than its minimum for as long as it may."""
    if job.pending_seconds is None or attempt.short_since is None:
        return False
    return now >= attempt.short_since + job.pending_seconds


def _pending_too_long(attempt: Attempt, job: JobView, now: int) -> Verdict | None:
    if not waits_too_long(attempt, job, now):
        return None
    return Verdict(
        "Stopped",
        PENDING_TOO_LONG,
        message=f"fewer pods than the minimum ran for {job.pending_seconds} s",
    )


def _stalled(view: AttemptView, job: JobView) -> Verdict | None:
    answer = view.progress
    if answer is None or answer.phase != "step":
        return None  # a launcher that cannot be reached proves nothing
    age = answer.last_step_age_seconds
    if age is None or age <= job.stall_seconds:
        return None
    return Verdict(
        "Failed",
        "Hung",
        code=StallError.exit_code,
        message=f"no step after {answer.step} for {int(age)} s",
        charged=True,
    )
