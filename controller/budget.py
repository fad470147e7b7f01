"""The restart budget and the wait before the next attempt. Pure."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from controller.observe import JobView, Rival
from controller.verdict import PENDING_TOO_LONG, Verdict
from k8s.status import Attempt, JobStatus

BACKOFF_LIMIT_SECONDS: Final = 300.0


def charged(status: JobStatus, job: JobView, now: int) -> JobStatus:
    """The status with one charge more; charges older than the window are forgotten."""
    recent = tuple(t for t in status.charges if t > now - job.restart_window_seconds)
    return replace(status, charges=(*recent, now))


def is_exhausted(status: JobStatus, job: JobView) -> bool:
    """Whether more was charged than the limit allows."""
    return len(status.charges) > job.restart_limit


def retry_at(
    status: JobStatus, job: JobView, attempt: Attempt, verdict: Verdict, now: int
) -> int | None:
    """When the next attempt may start; None: at once.

    Doubles with each charge in the window. A free end waits only if the attempt before ended the
    same way, except that a gang which cannot get its pods always lets others go first.
    """
    if verdict.charged:
        doublings = len(status.charges) - 1
    else:
        doublings = _repetitions(status, attempt.stage, verdict.cause) - 1
        if verdict.cause == PENDING_TOO_LONG:
            doublings += 1
    if doublings < 0:
        return None
    wait = min(BACKOFF_LIMIT_SECONDS, job.backoff_seconds * 2.0 ** min(doublings, 16))
    return math.ceil(now + wait * _jitter(f"{job.uid}/{attempt.stage}/{attempt.number}"))


def is_eldest(job: JobView, rivals: Sequence[Rival]) -> bool:
    """Whether all who wait for pods, and give theirs back in time, are younger than a job.

    It then keeps what it has: of jobs that cannot run at the same time, one gets on.
    """
    own = (job.created_at, job.uid)
    return bool(rivals) and all(own < (rival.created_at, rival.uid) for rival in rivals)


def _repetitions(status: JobStatus, stage: str, cause: str) -> int:
    """How many attempts of a stage before this one, without a break, ended by this cause."""
    count = 0
    for past in reversed(status.history):
        if (past.stage, past.cause) != (stage, cause):
            break
        count += 1
    return count


def _jitter(key: str) -> float:
    """A factor in [0.75, 1.25), the same for the same attempt, different between jobs."""
    digest = hashlib.sha256(key.encode()).digest()
    return 0.75 + int.from_bytes(digest[:4], "big") / 2**33
