"""When a change of ``train.nodes`` needs a new attempt, and when more or fewer pods will do. Pure."""

from controller.observe import JobView
from k8s.status import Attempt


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
