"""What users and queues ask of a job, on a real API server with the real training operator."""

import pytest

from tests.cluster.access import eventually
from tests.cluster.jobs import PATIENCE_SECONDS

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def test_a_cancelled_job_gives_its_pods_back_and_runs_again_from_a_stage(jobs):
    jobs.create()
    jobs.wait_for_pods("train", 2, attempt=1)
    jobs.pangu("cancel", "novel")
    jobs.wait(lambda s: s["phase"] == "Cancelled")
    eventually(lambda: not jobs.pods("train"), seconds=PATIENCE_SECONDS)
    assert "ended already" in jobs.pangu("cancel", "novel")
    jobs.pangu("rerun", "novel", "--from", "train")
    jobs.wait_for_pods("train", 2, attempt=2)
    assert jobs.status()["stages"][0]["attempt"] == 1
