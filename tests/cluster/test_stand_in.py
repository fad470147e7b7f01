"""The stand-in for the kubelet: pods do what a test wants, and the API server agrees."""

import urllib.request
from typing import Any

import pytest

from k8s import names
from pangu_core.messages import Progress, Termination
from tests.cluster.access import eventually
from tests.cluster.behaviour import Behaviour
from tests.cluster.stand_in import StandIn

pytestmark = [pytest.mark.cluster, pytest.mark.control_plane]
Object = dict[str, Any]
POD_SECURITY = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
CONTAINER = {
    "name": "c",
    "image": "none",
    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
}


class Pods:
    """Makes pods in the stand-in's namespace."""

    def __init__(self, stand_in: StandIn) -> None:
        self.cluster, self.namespace = stand_in.cluster, stand_in.namespace
        accounts = f"/api/v1/namespaces/{self.namespace}/serviceaccounts/default"
        eventually(lambda: self.cluster.request("GET", accounts))

    def make(self, name: str, **spec: Any) -> None:
        """A pod of one container."""
        body = {
            "metadata": {"name": name},
            "spec": {"containers": [CONTAINER], "securityContext": POD_SECURITY, **spec},
        }
        self.cluster.request("POST", f"/api/v1/namespaces/{self.namespace}/pods", body)

    def get(self, name: str) -> Object:
        """A pod as stored."""
        path = f"/api/v1/namespaces/{self.namespace}/pods/{name}"
        found: Object = self.cluster.request("GET", path)
        return found

    def wait_for(self, name: str, phase: str) -> Object:
        """A pod once it is in a phase."""
        eventually(lambda: self.get(name)["status"]["phase"] == phase)
        return self.get(name)

    def delete(self, name: str) -> None:
        """Ask a pod to end."""
        path = f"/api/v1/namespaces/{self.namespace}/pods/{name}"
        self.cluster.request("DELETE", path)


@pytest.fixture
def pods(stand_in: StandIn) -> Pods:
    return Pods(stand_in)


def test_a_pod_runs_at_once_and_is_ready(stand_in: StandIn, pods: Pods) -> None:
    pods.make("p")
    pod = pods.wait_for("p", "Running")
    assert pod["spec"]["nodeName"] == stand_in.node
    conditions = {c["type"]: c["status"] for c in pod["status"]["conditions"]}
    assert conditions["PodScheduled"] == conditions["Ready"] == "True"


def test_a_pod_ends_with_code_and_last_word(stand_in: StandIn, pods: Pods) -> None:
    word = Termination(code=3, error="DataError", message="no text")
    stand_in.policy = lambda _: Behaviour(exit_code=3, message=word)
    pods.make("p", restartPolicy="Never")
    (status,) = pods.wait_for("p", "Failed")["status"]["containerStatuses"]
    assert status["state"]["terminated"]["exitCode"] == 3
    assert Termination.from_json(status["state"]["terminated"]["message"]) == word


def test_a_container_is_started_again_where_its_pod_says_so(stand_in: StandIn, pods: Pods) -> None:
    pods.make("p")
    pods.wait_for("p", "Running")
    stand_in.end("p", 137, reason="OOMKilled")
    (status,) = eventually(
        lambda: [c for c in pods.get("p")["status"]["containerStatuses"] if c["restartCount"] == 1]
    )
    assert status["lastState"]["terminated"]["reason"] == "OOMKilled"
    assert "running" in status["state"]


def test_a_pod_that_cannot_be_placed_or_started_says_why(stand_in: StandIn, pods: Pods) -> None:
    stand_in.policy = lambda _: Behaviour(unschedulable="0/1 nodes: Insufficient nvidia.com/gpu")
    pods.make("p")
    (condition,) = eventually(lambda: pods.get("p")["status"].get("conditions"))
    assert condition["message"].endswith("nvidia.com/gpu")
    stand_in.policy = lambda _: Behaviour(waiting=("ImagePullBackOff", "no such image"))
    (status,) = eventually(lambda: pods.get("p")["status"].get("containerStatuses"))
    assert status["state"]["waiting"]["reason"] == "ImagePullBackOff"
    stand_in.policy = lambda _: Behaviour()
    pods.wait_for("p", "Running")


def test_a_deleted_pod_takes_its_time_and_is_gone(stand_in: StandIn, pods: Pods) -> None:
    stand_in.policy = lambda _: Behaviour(stop_seconds=float("inf"))
    pods.make("p")
    pods.wait_for("p", "Running")
    pods.delete("p")
    assert pods.get("p")["metadata"]["deletionTimestamp"]
    stand_in.policy = lambda _: Behaviour(stop_seconds=0)
    eventually(lambda: not stand_in.pods())


def test_progress_is_answered_at_the_pods_own_address(stand_in: StandIn, pods: Pods) -> None:
    said = Progress(phase="step", step=7)
    stand_in.policy = lambda _: Behaviour(progress=lambda: said)
    pods.make("p", restartPolicy="Never")
    address = pods.wait_for("p", "Running")["status"]["podIP"]
    assert ask(address) == said
    stand_in.end("p", 143)
    pods.wait_for("p", "Failed")
    with pytest.raises(OSError, match="refused"):
        ask(address)


def test_an_evicted_pod_is_marked_as_disrupted(stand_in: StandIn, pods: Pods) -> None:
    pods.make("p", restartPolicy="Never")
    pods.wait_for("p", "Running")
    stand_in.end("p", 143, disruption="EvictionByEvictionAPI")
    conditions = pods.wait_for("p", "Failed")["status"]["conditions"]
    (target,) = [c for c in conditions if c["type"] == "DisruptionTarget"]
    assert (target["status"], target["reason"]) == ("True", "EvictionByEvictionAPI")


def ask(address: str) -> Progress:
    url = f"http://{address}:{names.PROGRESS_PORT}/progress"
    with urllib.request.urlopen(url, timeout=5) as answer:
        return Progress.from_json(answer.read().decode())
