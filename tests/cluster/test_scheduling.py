"""Where pods land, and why they do not: the real scheduler, on nodes that KWOK plays."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from k8s import names
from tests.cluster.access import STRATEGIC_PATCH, eventually
from tests.cluster.control_plane import KWOK, SCHEDULER, ControlPlane
from tests.cluster.jobs import PATIENCE_SECONDS, Jobs, condition

pytestmark = [pytest.mark.cluster, pytest.mark.control_plane, pytest.mark.timeout(300)]

TOKENS = {"format": "tokens", "input": "tokens/novel"}
GPU = {"requests": {names.GPU_RESOURCE: "1"}, "limits": {names.GPU_RESOURCE: "1"}}
TAINT = {"key": "pool", "value": "others", "effect": "NoSchedule"}


class Scheduled:
    """A namespace whose pods a scheduler places and KWOK runs."""

    def __init__(self, cluster: ControlPlane, namespace: str) -> None:
        self.cluster, self.namespace = cluster, namespace

    def pods(self) -> list[dict[str, Any]]:
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        return self.cluster.request("GET", path)["items"]


class Placed(Jobs):
    """Jobs on fake nodes, which are gone at the end."""

    def __init__(self, place: Scheduled, folder: Path) -> None:
        super().__init__(place, folder)
        self.nodes: list[str] = []
        self._bind("work")

    def node(self, name: str, *, gpus: int, pool: str = "", taints: tuple[Any, ...] = ()) -> None:
        whole = f"{self.namespace}-{name}"
        metadata = {
            "name": whole,
            "labels": {names.HOST_LABEL: whole, "pool": pool},
            "annotations": {"kwok.x-k8s.io/node": "fake"},
        }
        body = {"metadata": metadata, "spec": {"taints": list(taints)}}
        self.cluster.request("POST", "/api/v1/nodes", body)
        self.nodes.append(whole)
        room = {"cpu": "32", "memory": "256Gi", "pods": "100", names.GPU_RESOURCE: str(gpus)}
        status = {"status": {"allocatable": room, "capacity": room}}
        path = f"/api/v1/nodes/{whole}/status"
        self.cluster.request("PATCH", path, status, kind=STRATEGIC_PATCH)

    def close(self) -> None:
        super().close()
        for name in self.nodes:
            self.cluster.request("DELETE", f"/api/v1/nodes/{name}")

    def landed(self) -> list[str]:
        """The nodes of the running trainers, without their namespace."""
        return sorted(
            pod["spec"]["nodeName"].removeprefix(f"{self.namespace}-")
            for pod in self.stand_in.pods()
            if pod["metadata"]["labels"].get(names.COMPONENT_LABEL) == "train"
            and pod["status"]["phase"] == "Running"
        )

    def _bind(self, claim: str) -> None:
        """A volume for the claim: a scheduler places no pod before that."""
        spec = {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteMany"],
            "hostPath": {"path": "/nowhere"},
            "claimRef": {"namespace": self.namespace, "name": claim},
        }
        body = {"metadata": {"name": f"{self.namespace}-{claim}"}, "spec": spec}
        self.cluster.request("POST", "/api/v1/persistentvolumes", body)
        path = f"/api/v1/namespaces/{self.namespace}/persistentvolumeclaims/{claim}"
        eventually(lambda: self.cluster.request("GET", path)["status"].get("phase") == "Bound")


@pytest.fixture(scope="module")
def scheduler(control_plane: ControlPlane) -> Iterator[None]:
    """A scheduler, and nodes that run what they are given."""
    with control_plane.running(SCHEDULER, KWOK):
        yield


@pytest.fixture
def placed(control_plane, crds, scheduler, tmp_path) -> Iterator[Placed]:
    with control_plane.namespace() as namespace:
        running = Placed(Scheduled(control_plane, namespace), tmp_path)
        running.start_controller()
        yield running
        running.close()


def test_trainers_land_only_where_gpus_are_and_they_may(placed):
    placed.node("plain", gpus=0, pool="a")
    placed.node("others", gpus=8, pool="a", taints=(TAINT,))
    placed.node("elsewhere", gpus=8, pool="b")
    placed.node("good", gpus=1, pool="a")
    placed.node("fine", gpus=1, pool="a")
    placed.create(data=TOKENS, pods={"resources": GPU, "nodeSelector": {"pool": "a"}})
    eventually(lambda: placed.landed() == ["fine", "good"], seconds=PATIENCE_SECONDS)


def test_a_taint_that_is_not_borne_is_named_and_bearing_it_helps(placed):
    placed.node("others", gpus=8, taints=(TAINT,))
    placed.create(data=TOKENS, pods={"resources": GPU})
    status = placed.wait(lambda s: condition(s, "Scheduled").get("reason") == "Unschedulable")
    assert "untolerated taint" in condition(status, "Scheduled")["message"]
    placed.cluster.request("DELETE", placed.path("novel"))
    eventually(lambda: not placed.stand_in.pods(), seconds=PATIENCE_SECONDS)
    placed.create(data=TOKENS, pods={"resources": GPU, "tolerations": [TAINT]})
    eventually(lambda: placed.landed() == ["others", "others"], seconds=PATIENCE_SECONDS)


def test_too_few_gpus_are_named(placed):
    placed.node("small", gpus=1)
    placed.create(data=TOKENS, pods={"resources": GPU}, train=two_nodes())
    status = placed.wait(lambda s: condition(s, "Scheduled").get("reason") == "Unschedulable")
    assert f"Insufficient {names.GPU_RESOURCE}" in condition(status, "Scheduled")["message"]


def test_a_priority_class_that_is_missing_is_named(placed):
    placed.node("good", gpus=8)
    placed.create(data=TOKENS, pods={"resources": GPU, "priorityClassName": "nowhere"})
    status = placed.wait(lambda s: "nowhere" in condition(s, "Scheduled").get("message", ""))
    assert condition(status, "Scheduled")["status"] == "False"


def test_a_quota_that_is_used_up_is_named(placed):
    placed.node("good", gpus=8)
    path = f"/api/v1/namespaces/{placed.namespace}/resourcequotas"
    body = {"metadata": {"name": "none"}, "spec": {"hard": {f"requests.{names.GPU_RESOURCE}": "0"}}}
    placed.cluster.request("POST", path, body)
    eventually(lambda: placed.cluster.request("GET", f"{path}/none")["status"].get("hard"))
    placed.create(data=TOKENS, pods={"resources": GPU})
    status = placed.wait(lambda s: "quota" in condition(s, "Scheduled").get("message", ""))
    assert condition(status, "Scheduled")["status"] == "False"


def two_nodes() -> dict[str, Any]:
    return {"steps": 100, "globalBatchSize": 8, "nodes": {"min": 2, "max": 2}}
