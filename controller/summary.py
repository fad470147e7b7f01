"""What ``kubectl get`` shows of a job: each column is one field of its status. Pure."""

from controller.observe import JobView
from k8s import names
from k8s.status import JobStatus, Summary


def summary(status: JobStatus, job: JobView, *, running: int) -> Summary:
    """The cells of a job's line.

    Args:
        status: decided, but for its summary.
        job: what the job file asks for.
        running: pods of the live attempt that run.
    """
    live, progress = status.attempt, status.progress
    trains = live is not None and live.stage == names.TRAIN
    loss = progress.loss if progress else None
    return Summary(
        nodes=f"{running}/{job.max_nodes}" if trains else "",
        progress=f"{100 * progress.step // max(1, progress.steps)}%" if progress else "",
        loss=f"{loss:.4g}" if loss is not None else "",
        restarts=f"{len(status.charges)}/{job.restart_limit}",
    )
