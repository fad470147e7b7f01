"""What users and queues ask of a job, on a real API server with the real training operator."""

import pytest
from kubernetes.client import ApiException

from k8s import names
from pangu_core.messages import Progress
from tests.cluster.access import eventually
from tests.cluster.behaviour import Behaviour, Pod
from tests.cluster.jobs import DONE, JOB, PATIENCE_SECONDS, condition, until_training

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


def test_a_trainer_that_waits_for_the_rest_of_a_unit_is_given_back(jobs):
    def report() -> Progress:
        return Progress(phase="step", step=7, steps=100, round=1, world_size=2)

    def policy(pod: Pod) -> Behaviour:
        if pod["metadata"]["labels"].get(names.COMPONENT_LABEL) != "train":
            return until_training(pod)
        is_last = pod["metadata"]["name"].endswith("worker-3")
        return Behaviour(unschedulable="no GPU is free" if is_last else "", progress=report)

    jobs.stand_in.policy = policy
    train = {**JOB["spec"]["train"], "tensorParallel": 2, "nodes": {"min": 2, "max": 4}}
    jobs.create(train=train, pods={}, limits={"surplusSeconds": 12})
    jobs.wait_for_pods("train", 3, attempt=1)
    jobs.wait(lambda s: s.get("gpu", {}).get("surplus") == 1)
    assert jobs.wait_for_pods("train", 2, attempt=1) == [
        "novel-train-1-worker-0",
        "novel-train-1-worker-1",
    ]
    status = jobs.wait(lambda s: s["gpu"]["held"] == 2)
    assert status["gpu"]["surplusSeconds"] >= 12
    assert status["gpu"]["usedSeconds"] > status["gpu"]["surplusSeconds"]
    assert {past["stage"] for past in status["history"]} == {"preprocess"}
    assert "surplus" in jobs.pangu("status", "novel")


def test_a_pod_of_the_job_tells_a_webhook_of_its_end_once(jobs):
    jobs.create(notify={"url": "https://hook.example.com/pangu", "secretRef": {"name": "hook"}})
    for worker in jobs.wait_for_pods("train", 2, attempt=1):
        jobs.stand_in.end(worker, 0, message=DONE)
    jobs.wait(lambda s: s["phase"] == "Complete" and s.get("notice", {}).get("seen"))
    path = f"/apis/batch/v1/namespaces/{jobs.namespace}/jobs/novel-notify-1"
    ended = eventually(
        lambda: (j := jobs.cluster.request("GET", path))["status"].get("succeeded") and j
    )
    container = ended["spec"]["template"]["spec"]["containers"][0]
    secret = next(e for e in container["env"] if e["name"] == names.NOTIFY_VARIABLE)
    assert secret["valueFrom"]["secretKeyRef"] == {"name": "hook", "key": "token"}
    jobs.cluster.request("DELETE", path, {"propagationPolicy": "Foreground"})
    jobs.controllers[0].kill()
    jobs.start_controller()
    jobs.change({"ttlSecondsAfterFinished": 3_600})
    jobs.wait(lambda s: s["observedGeneration"] == 2)
    with pytest.raises(ApiException, match="404"):
        jobs.cluster.request("GET", path)


def test_an_input_that_can_name_no_files_is_refused_before_anything_runs(jobs):
    jobs.create(data={"input": "corpus/"})
    status = jobs.wait(lambda s: condition(s, "Accepted").get("status") == "False")
    assert "data.input: corpus/: is a folder" in condition(status, "Accepted")["message"]
    assert jobs.stand_in.pods() == []
