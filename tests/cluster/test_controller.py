"""The controller against a real API server and the real training operator: lives of a job."""

import signal

import pytest

from k8s import names
from pangu_core.errors import ConfigError, DataError, WorkspaceError
from pangu_core.messages import Progress, Termination
from tests.cluster.access import eventually
from tests.cluster.behaviour import Behaviour, Pod
from tests.cluster.jobs import DONE, PATIENCE_SECONDS, condition, until_training

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def test_a_job_goes_through_its_stages_to_its_end(jobs):
    jobs.create()
    workers = jobs.wait_for_pods("train", 2, attempt=1)
    assert workers == ["novel-train-1-worker-0", "novel-train-1-worker-1"]
    for worker in workers:
        jobs.stand_in.end(worker, 0, message=DONE)
    status = jobs.wait(lambda s: s.get("phase") == "Complete")
    assert [s["state"] for s in status["stages"]] == ["Succeeded"] * 3
    assert condition(status, "Complete")["status"] == "True"
    assert status["observedGeneration"] == 1


def test_progress_reaches_the_status_and_an_answer_with_an_old_step_restarts_the_gang(jobs):
    age = [1.0]

    def report() -> Progress:
        return Progress(
            phase="step", step=7, steps=100, loss=2.5, round=1, last_step_age_seconds=age[0]
        )

    def policy(pod: Pod) -> Behaviour:
        if pod["metadata"]["labels"].get(names.COMPONENT_LABEL) == "train":
            return Behaviour(progress=report)
        return until_training(pod)

    jobs.stand_in.policy = policy
    jobs.create()
    status = jobs.wait(lambda s: (s.get("progress") or {}).get("step") == 7)
    assert status["progress"]["loss"] == 2.5
    age[0] = 10_000.0
    status = jobs.wait(lambda s: any(p["cause"] == "Hung" for p in s.get("history", ())))
    assert len(status["charges"]) == 1
    age[0] = 1.0
    jobs.wait_for_pods("train", 2, attempt=2)


@pytest.mark.parametrize(
    ("code", "word", "phase"),
    [
        (ConfigError.exit_code, "ConfigError", "Failed"),
        (DataError.exit_code, "DataError", "Restarting"),
        (WorkspaceError.exit_code, "WorkspaceError", "Restarting"),
    ],
)
def test_an_exit_code_decides_whether_there_is_another_attempt(jobs, code, word, phase):
    jobs.create()
    worker = jobs.wait_for_pods("train", 2, attempt=1)[0]
    jobs.stand_in.end(worker, code, message=Termination(code=code, error=word, message="why"))
    status = jobs.wait(lambda s: any(p["cause"] == word for p in s.get("history", ())))
    if phase == "Failed":
        status = jobs.wait(lambda s: s["phase"] == "Failed")
        assert "why" in condition(status, "Failed")["message"]
        assert not status.get("charges")
    else:
        assert len(status["charges"]) == 1
        jobs.wait_for_pods("train", 2, attempt=2)


def test_suspend_gives_the_pods_back_and_resume_starts_the_next_attempt(jobs):
    jobs.create()
    jobs.wait_for_pods("train", 2, attempt=1)
    jobs.change({"suspend": True})
    jobs.wait(lambda s: s["phase"] == "Suspended")
    assert jobs.pods("train") == []
    jobs.change({"suspend": False})
    jobs.wait_for_pods("train", 2, attempt=2)
    assert not jobs.status().get("charges")


def test_a_smaller_size_within_the_bounds_lowers_the_replicas_of_the_same_attempt(jobs):
    jobs.create()
    jobs.wait_for_pods("train", 2, attempt=1)
    jobs.change({"train": {"nodes": {"max": 1}}})
    assert jobs.wait_for_pods("train", 1, attempt=1) == ["novel-train-1-worker-0"]
    jobs.change({"train": {"nodes": {"max": 3}}})  # beyond what the pods were told
    jobs.wait_for_pods("train", 3, attempt=2)


def test_a_controller_that_is_killed_is_followed_by_another_which_starts_nothing_twice(jobs):
    first = jobs.controllers[0]
    jobs.create()
    jobs.wait_for_pods("train", 2, attempt=1)
    first.send_signal(signal.SIGKILL)
    jobs.stand_in.end("novel-train-1-worker-0", DataError.exit_code)
    jobs.start_controller()
    jobs.wait_for_pods("train", 2, attempt=2)
    assert len(jobs.status()["charges"]) == 1


def test_a_claim_that_is_missing_is_named_and_waited_for(jobs):
    jobs.create(workspace={"claimName": "elsewhere"})
    status = jobs.wait(lambda s: condition(s, "Accepted").get("status") == "False")
    assert "elsewhere" in condition(status, "Accepted")["message"]
    jobs.claim("elsewhere")
    jobs.wait_for_pods("train", 2, attempt=1)


def test_why_a_pod_does_not_run_is_in_the_status(jobs):
    jobs.stand_in.policy = lambda pod: Behaviour(unschedulable="0/3 nodes have a GPU")
    jobs.create()
    status = jobs.wait(lambda s: condition(s, "Scheduled").get("reason") == "Unschedulable")
    assert "0/3 nodes have a GPU" in condition(status, "Scheduled")["message"]


def test_a_deleted_job_takes_its_objects_along(jobs):
    jobs.create()
    jobs.wait_for_pods("train", 2, attempt=1)
    jobs.cluster.request("DELETE", jobs.path("novel"))
    eventually(lambda: not jobs.stand_in.pods(), seconds=PATIENCE_SECONDS)
