"""The call about a job's end: once for each end, also over a restart of the controller. Pure.

An end has a number, which is in the name of the call's objects, so nothing is made twice; that they
were made is in the status, so nothing is made again after they are gone.
"""

import json
from dataclasses import replace

from controller.actions import Notify
from controller.observe import AttemptView, JobView, Observed
from k8s import names
from k8s.status import JobStatus, Notice, to_dict


def with_notice(status: JobStatus, observed: Observed) -> JobStatus:
    """The status with which end is to be told, and whether the call's objects were seen."""
    if not status.is_terminal or not observed.job.notifies:
        return status
    number = status.reruns + 1  # an ended job ends again only after it was started again
    if status.notice is None or status.notice.number != number:
        return replace(status, notice=Notice(number))
    if not status.notice.seen and observed.attempt(names.NOTIFY, number):
        return replace(status, notice=Notice(number, seen=True))
    return status


def notice_actions(status: JobStatus, job: JobView) -> tuple[Notify, ...]:
    """The call, until it was seen."""
    notice = status.notice
    if notice is None or notice.seen or not status.is_terminal:
        return ()
    return (Notify(notice.number, body(status, job)),)


def is_under_way(status: JobStatus, observed: Observed) -> bool:
    """Whether the job must stay since its end is still being told."""
    if not status.is_terminal or not observed.job.notifies or status.notice is None:
        return False
    view = observed.attempt(names.NOTIFY, status.notice.number)
    return not status.notice.seen or (view is not None and not view.is_finished)


def is_notice(view: AttemptView) -> bool:
    """Whether objects belong to a call, not to a stage."""
    return view.stage == names.NOTIFY


def is_outdated(status: JobStatus, view: AttemptView) -> bool:
    """Whether a call is about an end before the last start."""
    return is_notice(view) and view.number <= status.reruns


def body(status: JobStatus, job: JobView) -> str:
    """What is sent: the job, how it ended, and what came of it."""
    found, failed = to_dict(status), status.condition("Failed")
    is_failure = failed is not None and failed.status == "True"
    words = {
        "job": job.name,
        "namespace": job.namespace,
        "uid": job.uid,
        "end": status.reruns + 1,
        "phase": status.phase,
        "reason": failed.reason if failed and is_failure else "AllStagesDone",
        "message": failed.message if failed and is_failure else "",
    }
    kept = ("exitCode", "startedAt", "completedAt", "stages", "progress", "restarts", "gpu")
    return json.dumps(words | {key: found[key] for key in kept if key in found})
