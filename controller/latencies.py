"""How long jobs wait for pods: at their start, and after a failure. Pure."""

from dataclasses import dataclass
from typing import Literal

from controller.endings import ASKED_FOR
from k8s.status import JobStatus


@dataclass(frozen=True)
class Latency:
    """One wait that is over."""

    kind: Literal["start", "recovery"]
    seconds: int


def latency(before: JobStatus, after: JobStatus, *, created_at: int, now: int) -> Latency | None:
    """The wait that ended between two statuses, as the first pod of an attempt runs.

    Args:
        before: the earlier status.
        after: the later one.
        created_at: the job's creation, unix seconds.
        now: unix seconds.
    """
    was, is_running = before.condition("Running"), after.condition("Running")
    if is_running is None or is_running.status != "True" or (was and was.status == "True"):
        return None
    if not after.history:
        return Latency("start", max(0, now - created_at))
    last = after.history[-1]
    if last.outcome in ("Succeeded", "Skipped") or last.cause in ASKED_FOR:
        return None
    return Latency("recovery", max(0, now - last.ended_at))
