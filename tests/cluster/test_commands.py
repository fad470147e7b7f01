"""Commands that ask more of a cluster than a job's own object."""

import json
import os
import subprocess

import pytest

from tests.cluster.access import eventually
from tests.cluster.behaviour import Behaviour
from tests.cluster.jobs import PANGU, PATIENCE_SECONDS, until_training

pytestmark = [pytest.mark.cluster, pytest.mark.control_plane]


def test_the_doctor_sees_what_is_there_and_what_is_not(jobs):
    environment = {**os.environ, "KUBECONFIG": str(jobs.cluster.kubeconfig)}
    command = [PANGU, "doctor", "--json", "-n", jobs.namespace]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout, done.stderr
    found = {each["subject"]: each for each in json.loads(done.stdout)}
    states = {subject: each["state"] for subject, each in found.items()}
    assert states["API server"] == states["rights"] == states["claim work"] == "good"
    assert states["definition PanguJob"] == states["definition PanguService"] == "good"
    # It runs as a process of the test, and the operator has no Deployment either.
    assert (states["controller"], states["training operator"], done.returncode) == (
        "bad",
        "note",
        1,
    )
    assert "helm install" in found["controller"]["fix"]


def test_a_job_is_deleted_with_what_it_wrote(jobs):
    jobs.create(pods={"resources": {}, "gracePeriod": 30})
    jobs.wait_for_pods("train", 2, attempt=1)
    jobs.stand_in.policy = lambda pod: (
        Behaviour(exit_code=0)
        if pod["metadata"]["labels"].get("app.kubernetes.io/component") == "clean-up"
        else until_training(pod)
    )
    said = jobs.pangu("delete", "novel", "--with-data")
    assert "deletes runs/novel" in said
    path = f"/apis/batch/v1/namespaces/{jobs.namespace}/jobs"

    def cleaned():
        return [
            j for j in jobs.cluster.request("GET", path)["items"] if j["status"].get("succeeded")
        ]

    [job] = eventually(cleaned, seconds=PATIENCE_SECONDS)
    assert job["metadata"]["name"].startswith("novel-clean-up-")
