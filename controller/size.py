"""How many nodes a job trains with: when a change needs a new attempt, what surplus is. Pure."""

from dataclasses import replace
from typing import Final

from controller.observe import AttemptView, JobView
from k8s.status import Attempt

# A unit that was given back is asked for again after a while, which doubles up to this.
REGROWTH_LIMIT_SECONDS: Final = 3_600


def needs_new_size(attempt: Attempt, job: JobView) -> bool:
    """Whether the world sizes that an attempt's pods were told no longer hold.

    ``PET_NNODES`` is part of a pod. Inside the bounds it names, a change is one of the replica
    count; a queue admits one count, so there every change is a new attempt.
    """
    low, high = attempt.min_nodes, attempt.max_nodes
    if low is None or high is None:
        return False
    if job.is_queued:
        return (low, high) != (job.min_nodes, job.max_nodes)
    return not low <= job.max_nodes <= high


def wanted_replicas(attempt: Attempt, job: JobView) -> int:
    """How many workers an attempt asks for."""
    return min(job.max_nodes, attempt.replicas or job.max_nodes)


def nodes_in_round(view: AttemptView, job: JobView) -> int:
    """Nodes of the round that trains; 0 if none is known to."""
    answer = view.progress
    return -(-answer.world_size // job.processes_per_node) if answer else 0


def surplus_pods(view: AttemptView, job: JobView) -> int:
    """Pods that run, are not on their way out, and have no place in the round."""
    nodes = nodes_in_round(view, job)
    running = sum(pod.phase == "Running" and pod.kill_at is None for pod in view.pods)
    return max(0, running - nodes) if nodes else 0


def with_surplus(attempt: Attempt, view: AttemptView, job: JobView, now: int) -> Attempt:
    """The attempt with how long pods have been of no use, and how many workers it asks for.

    Pods that wait for the rest of a unit for too long are given back, those that cannot be placed
    with them. Later the job asks for all again; each time in vain doubles the wait.
    """
    if job.surplus_seconds is None or job.is_queued or view.replicas is None:
        return attempt
    if attempt.regrow_at is not None and now >= attempt.regrow_at:
        attempt = replace(attempt, replicas=None, regrow_at=None, surplus_since=None)
    nodes = nodes_in_round(view, job)
    if not nodes:
        return attempt  # nobody answers, or no round trains: that says nothing of surplus
    if nodes >= job.max_nodes:
        attempt = replace(attempt, give_backs=0)
    if not surplus_pods(view, job) or nodes >= wanted_replicas(attempt, job):
        return replace(attempt, surplus_since=None)
    since = now if attempt.surplus_since is None else attempt.surplus_since
    if now < since + job.surplus_seconds:
        return replace(attempt, surplus_since=since)
    wait = min(REGROWTH_LIMIT_SECONDS, job.surplus_seconds * 2 ** min(attempt.give_backs + 1, 16))
    return replace(
        attempt,
        replicas=nodes,
        surplus_since=None,
        regrow_at=now + wait,
        give_backs=attempt.give_backs + 1,
    )
