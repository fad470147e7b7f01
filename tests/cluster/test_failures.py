"""What fails around a job, against a real control plane: nothing starts twice, nothing is lost."""

import signal
import threading
from collections import Counter

import pytest

from controller.cluster.manager import LEASE_NAME
from k8s import names
from pangu_core.errors import ConfigError, DataError
from pangu_core.messages import Progress, Termination
from tests.cluster.access import eventually
from tests.cluster.behaviour import Behaviour, Pod
from tests.cluster.control_plane import API_SERVER, CONTROLLER_MANAGER, OPERATOR, ControlPlane
from tests.cluster.jobs import CHECKOUT, DONE, PATIENCE_SECONDS, Jobs, condition, until_training
from tests.cluster.stand_in import StandIn

pytestmark = [pytest.mark.cluster, pytest.mark.control_plane, pytest.mark.timeout(300)]


def main_objects(jobs: Jobs) -> Counter:
    """How many Jobs and PyTorchJobs of each stage were ever made, by the audit log."""
    made = [
        event["objectRef"]
        for event in jobs.cluster.audit_events()
        if event["verb"] == "create"
        and event.get("responseStatus", {}).get("code") == 201
        and event.get("objectRef", {}).get("namespace") == jobs.namespace
        and event["objectRef"]["resource"] in ("jobs", "pytorchjobs")
    ]
    return Counter(each.get("name", "") for each in made)


def is_trainer(pod: Pod) -> bool:
    return bool(pod["metadata"]["labels"].get(names.COMPONENT_LABEL) == "train")


def holder(jobs: Jobs) -> str:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{jobs.namespace}/leases/{LEASE_NAME}"
    return jobs.cluster.request("GET", path)["spec"].get("holderIdentity", "")


def complete(jobs: Jobs) -> dict:
    """End every trainer well; the status of the complete job."""
    for worker in jobs.pods("train"):
        jobs.stand_in.end(worker, 0, message=DONE)
    return jobs.wait(lambda s: s["phase"] == "Complete")


def test_a_leader_that_is_killed_is_followed_by_the_other_replica(jobs):
    eventually(lambda: holder(jobs))
    first = holder(jobs)
    jobs.start_controller()
    jobs.create()
    jobs.wait_for_pods("train", 2, attempt=1)
    jobs.controllers[0].send_signal(signal.SIGKILL)
    jobs.stand_in.end("novel-train-1-worker-0", DataError.exit_code)
    jobs.wait_for_pods("train", 2, attempt=2)
    assert holder(jobs) not in ("", first)
    assert len(jobs.status()["charges"]) == 1
    assert set(main_objects(jobs).values()) == {1}


def test_a_controller_that_is_told_to_go_hands_over_at_once(jobs):
    eventually(lambda: holder(jobs))
    jobs.create()
    jobs.wait_for_pods("train", 2, attempt=1)
    jobs.controllers[0].terminate()
    assert jobs.controllers[0].wait(timeout=30) == 0
    assert holder(jobs) == ""
    jobs.start_controller()
    assert complete(jobs)["stages"][1]["attempt"] == 1
    assert set(main_objects(jobs).values()) == {1}


def test_the_operator_may_restart_mid_way(jobs, control_plane):
    jobs.create()
    workers = jobs.wait_for_pods("train", 2, attempt=1)
    control_plane.stop(OPERATOR)
    jobs.stand_in.end(workers[0], 143)
    jobs.wait(lambda s: s["attempt"].get("exits"))
    control_plane.start(OPERATOR)
    jobs.wait_for_pods("train", 2, attempt=1)
    status = complete(jobs)
    assert not status.get("charges")
    assert [s["attempt"] for s in status["stages"]] == [1, 1, 1]


@pytest.mark.parametrize("stage", ["preprocess", "train"])
def test_a_job_that_is_deleted_at_a_stage_leaves_nothing_and_may_come_again(jobs, stage):
    if stage == "preprocess":
        jobs.stand_in.policy = lambda pod: Behaviour()
    jobs.create()
    jobs.wait_for_pods(stage, 1 if stage == "preprocess" else 2, attempt=1)
    jobs.cluster.request("DELETE", jobs.path("novel"))
    jobs.stand_in.policy = until_training
    jobs.create()  # at once, while the first one's objects still go
    uid = jobs.job()["metadata"]["uid"]
    eventually(lambda: owners(jobs) == [uid, uid], seconds=PATIENCE_SECONDS)


def owners(jobs: Jobs) -> list[str]:
    """Whose the pods of the training are, one for each pod."""
    return [p["metadata"]["labels"][names.UID_LABEL] for p in jobs.stand_in.pods() if is_trainer(p)]


def test_an_exit_of_zero_without_a_manifest_is_no_success(jobs):
    jobs.create()
    worker = jobs.wait_for_pods("train", 2, attempt=1)[0]
    jobs.stand_in.end(worker, 0, message=Termination(code=0))
    jobs.wait_for_pods("train", 2, attempt=2)
    status = jobs.status()
    assert status["history"][-1]["outcome"] == "Failed"
    assert len(status["charges"]) == 1


def test_a_surplus_worker_at_the_end_changes_nothing(jobs):
    jobs.create()
    first, _ = jobs.wait_for_pods("train", 2, attempt=1)
    jobs.stand_in.end(first, 0, message=DONE)
    status = jobs.wait(lambda s: s["stages"][1]["state"] == "Succeeded")
    assert status["stages"][1]["manifestSha256"] == DONE.manifest_sha256
    status = jobs.wait(lambda s: s["phase"] == "Complete")
    assert not status.get("charges")


def test_a_failure_while_a_job_is_being_suspended_is_not_charged(jobs):
    jobs.stand_in.policy = lambda pod: (
        Behaviour(stop_code=1, stop_message=Termination(code=1, error="OSError"))
        if is_trainer(pod)
        else until_training(pod)
    )
    jobs.create()
    jobs.wait_for_pods("train", 2, attempt=1)
    jobs.change({"suspend": True})
    status = jobs.wait(lambda s: s["phase"] == "Suspended")
    assert not status.get("charges")
    jobs.change({"suspend": False})
    jobs.wait_for_pods("train", 2, attempt=2)


def test_launchers_that_cannot_be_reached_restart_nothing(jobs):
    silent = threading.Event()

    def report() -> Progress:
        if silent.is_set():
            silent_for_ever.wait()
        return Progress(phase="step", step=7, steps=100, round=1, last_step_age_seconds=1.0)

    silent_for_ever = threading.Event()
    jobs.stand_in.policy = lambda pod: (
        Behaviour(progress=report) if is_trainer(pod) else until_training(pod)
    )
    jobs.create()
    jobs.wait(lambda s: (s.get("progress") or {}).get("step") == 7)
    silent.set()
    status = jobs.wait(lambda s: condition(s, "Progressing").get("status") == "Unknown")
    silent_for_ever.set()
    assert (status["attempt"]["number"], status.get("charges", [])) == (1, [])


def test_conflicts_at_every_write_are_worked_through(jobs):
    """Somebody else writes the job all the time."""
    stop = threading.Event()

    def annotate() -> None:
        count = 0
        while not stop.wait(0.05):
            body = {"metadata": {"annotations": {"count": str(count)}}}
            kind = "application/merge-patch+json"
            jobs.cluster.request("PATCH", jobs.path("novel"), body, kind=kind)
            count += 1

    jobs.create()
    writer = threading.Thread(target=annotate)
    writer.start()
    try:
        jobs.wait_for_pods("train", 2, attempt=1)
        assert complete(jobs)["exitCode"] == 0
    finally:
        stop.set()
        writer.join()
    assert set(main_objects(jobs).values()) == {1}


def test_a_configuration_that_is_wrong_is_never_tried_again(jobs):
    jobs.stand_in.policy = lambda pod: Behaviour(
        exit_code=ConfigError.exit_code,
        message=Termination(
            code=ConfigError.exit_code, error="ConfigError", message="no such file"
        ),
    )
    jobs.create()
    status = jobs.wait(lambda s: s["phase"] == "Failed")
    assert "no such file" in condition(status, "Failed")["message"]
    assert sum(main_objects(jobs).values()) == 1


@pytest.fixture(scope="module")
def own_plane(tmp_path_factory) -> ControlPlane:
    """One whose API server goes away: its controllers take up to half a minute to come back."""
    folder = tmp_path_factory.mktemp("restarted")
    with ControlPlane(
        folder,
        components=(CONTROLLER_MANAGER, OPERATOR),
        audit=True,
    ) as plane:
        plane.kubectl("apply", "-f", str(CHECKOUT / "k8s/crds"))
        yield plane


def test_the_api_server_may_restart_mid_way(own_plane, tmp_path):
    with own_plane.namespace() as namespace, StandIn(own_plane, namespace, until_training) as pods:
        jobs = Jobs(pods, tmp_path)
        jobs.start_controller()
        try:
            jobs.create()
            jobs.wait_for_pods("train", 2, attempt=1)
            own_plane.restart(API_SERVER)
            for worker in jobs.pods("train"):
                jobs.stand_in.end(worker, 0, message=DONE)
            jobs.wait(lambda s: s["phase"] == "Complete")
            assert set(main_objects(jobs).values()) == {1}
        finally:
            jobs.close()
