"""Deletes what a job wrote, when the job is gone: a Job in the cluster does it."""

import time
from typing import Any, Final

from controller.cluster.api import Api, ApiError
from controller.cluster.kinds import BATCH_JOB, JOB
from k8s.helper import clean_up_context
from k8s.render import render_clean_up
from k8s.spec import read_job
from pangu_core.errors import PanguError

PERIOD_SECONDS: Final = 0.5
# Beyond the grace period of its pods: they are the last to go.
PATIENCE_SECONDS: Final = 120.0


def clean_up(api: Api, item: dict[str, Any]) -> str:
    """Wait until a deleted job is gone, and start the clean-up; returns its name.

    Raises:
        PanguError: the job is still there, so that its pods may still write.
        ApiError: the server refused.
    """
    job = read_job(item)
    pods = job.spec.pods
    limit = time.monotonic() + pods.grace_period + PATIENCE_SECONDS
    while _is_there(api, job.name, job.uid):
        if time.monotonic() > limit:
            raise PanguError(
                f"PanguJob {job.name}", seen="still there", rule="must be gone before its data goes",
                fix="see which of its pods does not end, and delete it again --with-data",
            )  # fmt: skip
        time.sleep(PERIOD_SECONDS)
    manifest = render_clean_up(clean_up_context(job, api.namespace))
    name: str = manifest["metadata"]["name"]
    try:
        api.create(BATCH_JOB, manifest, api.namespace)
    except ApiError as error:
        if not error.is_conflict:  # it was started before
            raise
    return name


def _is_there(api: Api, name: str, uid: str) -> bool:
    try:
        found = api.get(JOB, api.namespace, name)
    except ApiError as error:
        if error.is_missing:
            return False
        raise
    return bool(found["metadata"]["uid"] == uid)
