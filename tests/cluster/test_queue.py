"""Jobs in a queue: whoever has the quota decides when their pods may be, and we keep our hands off."""

from collections.abc import Iterator
from http import HTTPStatus

import pytest
from kubernetes.client import ApiException

from controller.cluster.kinds import WORKLOAD
from k8s import names
from tests.cluster.access import eventually
from tests.cluster.jobs import PATIENCE_SECONDS, Jobs, condition
from tests.cluster.kueue import FLAVOR, MANAGER, Kueue

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

QUEUE = {"name": "research", "priorityClass": "low"}


@pytest.fixture
def kueue(jobs: Jobs) -> Iterator[Kueue]:
    with Kueue(jobs.cluster, jobs.namespace) as running:
        yield running


def pytorch_job(jobs: Jobs, attempt: int) -> dict:
    path = f"/apis/kubeflow.org/v1/namespaces/{jobs.namespace}/pytorchjobs"
    return jobs.cluster.request("GET", f"{path}/novel-train-{attempt}")


def is_held(status: dict) -> bool:
    return condition(status, "Queued").get("status") == "True"


def test_each_stage_waits_until_it_is_admitted(jobs: Jobs, kueue: Kueue) -> None:
    jobs.create(queue=QUEUE)
    jobs.wait(is_held)
    assert jobs.status()["phase"] == "Pending"
    kueue.admit("novel-preprocess-1")
    jobs.wait(lambda s: s["stages"][0]["state"] == "Succeeded" and is_held(s))
    held = pytorch_job(jobs, 1)
    assert held["metadata"]["labels"][names.QUEUE_LABEL] == "research"
    assert held["metadata"]["labels"][names.QUEUE_PRIORITY_LABEL] == "low"
    assert jobs.pods("train") == []
    kueue.admit("novel-train-1")
    jobs.wait_for_pods("train", 2, attempt=1)
    jobs.wait(lambda s: not is_held(s) and s["phase"] == "Running")


def test_an_evicted_gang_saves_and_goes_on_in_the_same_attempt(jobs: Jobs, kueue: Kueue) -> None:
    kueue.admit("novel-preprocess-1")
    kueue.admit("novel-train-1")
    jobs.create(queue=QUEUE)
    jobs.wait_for_pods("train", 2, attempt=1)
    kueue.evict("novel-train-1")
    jobs.wait(is_held)
    eventually(lambda: not jobs.pods("train"), seconds=PATIENCE_SECONDS)
    kueue.admit("novel-train-1")
    jobs.wait_for_pods("train", 2, attempt=1)
    status = jobs.wait(lambda s: not is_held(s))
    assert not status.get("charges")
    assert status["stages"][1]["attempt"] == 1


def test_what_the_queue_wrote_stays_as_it_is(jobs: Jobs, kueue: Kueue) -> None:
    kueue.admit("novel-preprocess-1")
    kueue.admit("novel-train-1")
    jobs.create(queue=QUEUE)
    jobs.wait_for_pods("train", 2, attempt=1)
    jobs.wait(lambda s: s["phase"] == "Running")
    job = pytorch_job(jobs, 1)
    template = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]
    assert template["spec"]["nodeSelector"] == FLAVOR
    writers = {each["manager"] for each in job["metadata"]["managedFields"]}
    assert MANAGER in writers
    ours = [e for e in job["metadata"]["managedFields"] if e["manager"] == "pangu-controller"]
    assert [e["operation"] for e in ours] == ["Update"]  # its creation
    assert "f:suspend" not in ours[0]["fieldsV1"]["f:spec"]["f:runPolicy"]
    assert kueue.stopped == []


def test_another_size_is_another_attempt_that_queues_anew(jobs: Jobs, kueue: Kueue) -> None:
    kueue.admit("novel-preprocess-1")
    kueue.admit("novel-train-1")
    jobs.create(queue=QUEUE)
    jobs.wait_for_pods("train", 2, attempt=1)
    jobs.pangu("scale", "novel", "1")
    jobs.wait(lambda s: (s.get("attempt") or {}).get("number") == 2 and is_held(s))
    assert pytorch_job(jobs, 2)["spec"]["pytorchReplicaSpecs"]["Worker"]["replicas"] == 1
    kueue.admit("novel-train-2")
    jobs.wait_for_pods("train", 1, attempt=2)
    assert kueue.stopped == []


def is_served(jobs: Jobs, path: str) -> bool:
    """Whether a kind that was just defined can be listed."""
    try:
        jobs.cluster.request("GET", path)
    except ApiException as error:
        if error.status not in (HTTPStatus.NOT_FOUND, HTTPStatus.TOO_MANY_REQUESTS):
            raise
        return False
    return True


@pytest.fixture
def workloads(jobs: Jobs) -> Iterator[str]:
    """The path of Kueue's Workloads, in a definition without rules."""
    version = {
        "name": WORKLOAD.version,
        "served": True,
        "storage": True,
        "schema": {
            "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        },
    }
    spec = {
        "group": WORKLOAD.group,
        "names": {"kind": WORKLOAD.name, "plural": WORKLOAD.plural},
        "scope": "Namespaced",
        "versions": [version],
    }
    name = f"{WORKLOAD.plural}.{WORKLOAD.group}"
    definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    jobs.cluster.request("POST", definitions, {"metadata": {"name": name}, "spec": spec})
    path = WORKLOAD.path(jobs.namespace)
    eventually(lambda: is_served(jobs, path), seconds=PATIENCE_SECONDS)
    yield path
    jobs.cluster.request("DELETE", f"{definitions}/{name}")


def test_the_queues_own_words_are_in_the_status_where_they_may_be_read(
    jobs: Jobs, workloads: str
) -> None:
    jobs.controllers[0].kill()
    jobs.start_controller(more=["--watch-queues"])
    jobs.create(queue=QUEUE)
    jobs.wait(is_held)
    path = f"/apis/batch/v1/namespaces/{jobs.namespace}/jobs/novel-preprocess-1"
    uid = jobs.cluster.request("GET", path)["metadata"]["uid"]
    no_room = {"type": "QuotaReserved", "status": "False", "reason": "Pending", "message": "no GPU"}
    workload = {
        "metadata": {"name": "w", "labels": {names.QUEUED_UID_LABEL: uid}},
        "status": {"conditions": [no_room]},
    }
    body = {"apiVersion": WORKLOAD.api_version, "kind": WORKLOAD.name, **workload}
    jobs.cluster.request("POST", workloads, body)
    status = jobs.wait(lambda s: condition(s, "Queued").get("reason") == "Pending")
    assert condition(status, "Queued")["message"] == "no GPU"
