"""What the real training operator does with our PyTorchJobs: the facts that our code relies on.

Where the local runtime plays the operator (``controller.local.operators``), it is held against the
real one here.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from controller.local import operators
from k8s import names
from k8s.render import render_stage
from k8s.spec import PanguJob, parse
from tests.cluster import control_plane as parts
from tests.cluster.access import MERGE_PATCH, eventually
from tests.cluster.behaviour import Behaviour
from tests.cluster.control_plane import ControlPlane
from tests.cluster.stand_in import StandIn

pytestmark = [pytest.mark.cluster, pytest.mark.control_plane, pytest.mark.timeout(240)]

EXAMPLE = Path(__file__).parents[2] / "examples" / "tiny-cluster.yaml"
WORKERS = 3
Object = dict[str, Any]


class Gang:
    """A PyTorchJob of three workers that all run."""

    def __init__(self, plane: ControlPlane, stand_in: StandIn) -> None:
        self.plane, self.stand_in = plane, stand_in
        self.namespace = stand_in.namespace
        self.manifest = pytorch_job()
        self.name = self.manifest["metadata"]["name"]
        self.path = f"/apis/kubeflow.org/v1/namespaces/{self.namespace}/pytorchjobs"
        plane.request("POST", self.path, self.manifest)
        eventually(lambda: self.phases() == ["Running"] * WORKERS)
        eventually(lambda: self.replica_status().get("active") == WORKERS)

    def job(self) -> Object:
        """The PyTorchJob as stored."""
        found: Object = self.plane.request("GET", f"{self.path}/{self.name}")
        return found

    def pods(self) -> dict[str, Object]:
        """Pods by name."""
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        return {pod["metadata"]["name"]: pod for pod in self.plane.request("GET", path)["items"]}

    def uids(self) -> dict[str, str]:
        """Name -> uid of pods that are not on their way out."""
        pods = self.pods().values()
        living = [pod["metadata"] for pod in pods if "deletionTimestamp" not in pod["metadata"]]
        return {metadata["name"]: metadata["uid"] for metadata in living}

    def phases(self) -> list[str]:
        """Phases of the pods."""
        return [pod["status"]["phase"] for pod in self.pods().values()]

    def worker(self, index: int) -> str:
        """A pod's name."""
        return f"{self.name}-worker-{index}"

    def end(self, index: int, code: int) -> None:
        """Have a worker exit."""
        self.stand_in.end(self.worker(index), code)

    def has_ended(self, index: int, code: int) -> bool:
        """Whether the API server knows of a worker's exit."""
        return operators.exit_code(self.pods()[self.worker(index)]) == code

    def replica_status(self) -> dict[str, int]:
        """Of the workers."""
        worker: dict[str, int] = (
            self.job().get("status", {}).get("replicaStatuses", {}).get("Worker", {})
        )
        return worker

    def conditions(self) -> dict[str, str]:
        """Type -> reason of those that are true."""
        found = self.job().get("status", {}).get("conditions", [])
        return {c["type"]: c["reason"] for c in found if c["status"] == "True"}

    def scale(self, replicas: int) -> None:
        """Ask for another number of workers."""
        body = {"spec": {"pytorchReplicaSpecs": {"Worker": {"replicas": replicas}}}}
        self.plane.request("PATCH", f"{self.path}/{self.name}", body, kind=MERGE_PATCH)


@pytest.fixture
def gang(control_plane: ControlPlane, stand_in: StandIn) -> Gang:
    return Gang(control_plane, stand_in)


def pytorch_job() -> Object:
    """What ``pangu render`` prints for the training stage of an example, with three workers."""
    (job,) = [each for each in parse(EXAMPLE) if isinstance(each, PanguJob)]
    manifest: Object = render_stage(job, names.TRAIN)[-1]
    del manifest["metadata"]["namespace"]
    manifest["spec"]["pytorchReplicaSpecs"]["Worker"]["replicas"] = WORKERS
    manifest["spec"]["elasticPolicy"]["maxReplicas"] = WORKERS
    return manifest


def test_its_pods_are_those_that_the_local_runtime_makes(gang: Gang) -> None:
    real = gang.pods()
    for pod in operators.rule(gang.manifest, []).create:
        made = real.pop(pod["metadata"]["name"])
        assert facts(made) == facts(pod)
    assert not real


def test_workers_are_told_how_to_meet(gang: Gang) -> None:
    container = gang.pods()[gang.worker(1)]["spec"]["containers"][0]
    told = {v["name"]: v["value"] for v in container["env"] if v["name"].startswith("PET_")}
    policy = gang.manifest["spec"]["elasticPolicy"]
    assert told == {
        "PET_NPROC_PER_NODE": "1",
        "PET_RDZV_ENDPOINT": f"{gang.name}-store:{names.STORE_PORT}",
        "PET_RDZV_BACKEND": "pangu",
        "PET_NNODES": f"1:{WORKERS}",
        "PET_MAX_RESTARTS": "1000000",
        "PET_RDZV_ID": policy["rdzvId"],
    }


def test_each_worker_has_a_headless_service_of_its_name(gang: Gang) -> None:
    path = f"/api/v1/namespaces/{gang.namespace}/services"
    eventually(lambda: len(gang.plane.request("GET", path)["items"]) == WORKERS)
    services = gang.plane.request("GET", path)["items"]
    for service, pod in zip(services, gang.pods().values(), strict=True):
        assert service["metadata"]["name"] == pod["metadata"]["name"]
        assert service["spec"]["clusterIP"] == "None"
        assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
        assert {port["port"] for port in service["spec"]["ports"]} == {names.PROGRESS_PORT, 23456}


@pytest.mark.parametrize("code", [128, 143, 201])
def test_a_code_of_128_and_above_replaces_the_pod(gang: Gang, code: int) -> None:
    before = gang.uids()
    gang.end(1, code)
    eventually(lambda: gang.uids().get(gang.worker(1), before[gang.worker(1)])
               != before[gang.worker(1)])  # fmt: skip
    eventually(lambda: gang.replica_status().get("active") == WORKERS)
    changed = {name for name, uid in gang.uids().items() if uid != before[name]}
    assert changed == {gang.worker(1)}
    assert gang.conditions().keys() == {"Created", "Running"}


@pytest.mark.parametrize("code", [1, 3, 127])
def test_a_code_up_to_127_fails_the_job_and_keeps_the_pod(gang: Gang, code: int) -> None:
    gang.end(1, code)
    eventually(lambda: gang.uids().keys() == {gang.worker(1)})
    assert gang.conditions().keys() == {"Created", "Failed"}
    assert "completionTime" not in gang.job()["status"]


def test_the_first_worker_that_exits_0_makes_the_job_succeed(gang: Gang) -> None:
    gang.end(2, 0)
    eventually(lambda: gang.uids().keys() == {gang.worker(2)})
    assert gang.conditions().keys() == {"Created", "Succeeded"}
    # Those that ran are counted as succeeded in the end, though they were told to stop.
    eventually(lambda: gang.replica_status().get("active", 0) == 0)
    assert gang.replica_status()["succeeded"] == WORKERS


def test_an_evicted_pod_that_left_no_code_is_replaced(gang: Gang) -> None:
    before = gang.uids()[gang.worker(0)]
    path = f"/api/v1/namespaces/{gang.namespace}/pods/{gang.worker(0)}/status"
    status = {"phase": "Failed", "reason": "Evicted", "containerStatuses": None}
    gang.plane.request("PATCH", path, {"status": status}, kind=MERGE_PATCH)
    eventually(lambda: gang.uids().get(gang.worker(0), before) != before)
    assert "Failed" not in gang.conditions()


def test_the_highest_workers_go_when_there_shall_be_fewer(gang: Gang) -> None:
    gang.scale(1)
    eventually(lambda: gang.pods().keys() == {gang.worker(0)})
    gang.scale(2)
    eventually(lambda: gang.replica_status().get("active") == 2)
    env = gang.pods()[gang.worker(1)]["spec"]["containers"][0]["env"]
    assert {"name": "PET_NNODES", "value": f"1:{WORKERS}"} in env
    assert "Failed" not in gang.conditions()


@pytest.mark.parametrize(("code", "outcome"), [(1, "Failed"), (0, "Succeeded")])
def test_what_a_surplus_worker_exits_with_decides_the_job(
    gang: Gang, code: int, outcome: str
) -> None:
    # So a trainer that is told to stop must exit with 128 or above, whatever happens to it.
    gang.stand_in.policy = lambda _: Behaviour(stop_code=code, remove_seconds=10)
    gang.scale(2)
    eventually(lambda: outcome in gang.conditions())


def test_deleting_the_job_waits_for_its_pods(gang: Gang) -> None:
    gang.stand_in.policy = lambda _: Behaviour(stop_seconds=2.0)
    body = {"propagationPolicy": "Foreground"}
    gang.plane.request("DELETE", f"{gang.path}/{gang.name}", body)
    assert gang.job()["metadata"]["deletionTimestamp"]
    eventually(lambda: gang.plane.request("GET", gang.path)["items"] == [])
    assert gang.pods() == {}


# Exit codes by worker, seen all at once by an operator that was away.
AT_ONCE: Mapping[str, dict[int, int]] = {
    "nothing": {},
    "a success": {0: 0},
    "a failure": {2: 5},
    "a loss": {1: 137},
    "losses of all": {0: 201, 1: 201, 2: 201},
    "a success and a failure": {0: 0, 1: 5},
    "a success and a loss": {0: 0, 1: 137},
    "a failure and a loss": {0: 143, 1: 5},
}


@pytest.mark.parametrize("codes", AT_ONCE.values(), ids=AT_ONCE.keys())
def test_the_local_operator_rules_as_the_real_one(gang: Gang, codes: dict[int, int]) -> None:
    gang.plane.stop(parts.OPERATOR)
    try:
        before = gang.uids()
        for index, code in codes.items():
            gang.end(index, code)
            eventually(partial(gang.has_ended, index, code))
        ruling = operators.rule(gang.job(), list(gang.pods().values()))
    finally:
        gang.plane.start(parts.OPERATOR)
    expected = [ruling.condition["type"]] if ruling.condition else []
    gone = {*ruling.remove, *ruling.stop}
    replaced = {pod["metadata"]["name"] for pod in ruling.create}
    eventually(lambda: [k for k in ("Failed", "Succeeded") if k in gang.conditions()] == expected)
    eventually(lambda: changes(before, gang.uids()) == (gone - replaced, replaced))


def changes(before: dict[str, str], after: dict[str, str]) -> tuple[set[str], set[str]]:
    """Names that are gone, and names that are another pod's now."""
    gone = before.keys() - after.keys()
    return set(gone), {name for name, uid in after.items() if uid != before[name]}


def facts(pod: Object) -> Object:
    """What our code relies on in a worker."""
    metadata, spec = pod["metadata"], pod["spec"]
    return {
        "name": metadata["name"],
        "labels": metadata["labels"],
        "annotations": metadata["annotations"],
        "restartPolicy": spec["restartPolicy"],
        "containers": [(c["name"], c["command"]) for c in spec["containers"]],
        "env": [{k: v for k, v in each.items() if k != "valueFrom"}
                for c in spec["containers"] for each in c["env"]],
    }  # fmt: skip
