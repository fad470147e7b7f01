"""The control plane itself: that it is the real thing, and that it comes and goes cleanly."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes.client import ApiException

from tests.cluster import control_plane as parts
from tests.cluster.access import Cluster, eventually
from tests.cluster.binaries import ASSETS_VARIABLE
from tests.cluster.control_plane import ControlPlane

pytestmark = pytest.mark.cluster

ROLE = """
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader}
rules: [{apiGroups: [""], resources: [configmaps], verbs: [list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{kind: ServiceAccount, name: reader}]
"""
FAKE_NODE = """
apiVersion: v1
kind: Node
metadata: {name: gpu-0, annotations: {kwok.x-k8s.io/node: fake}}
status:
  allocatable: {cpu: 8, memory: 64Gi, pods: 110, nvidia.com/gpu: 1}
  capacity: {cpu: 8, memory: 64Gi, pods: 110, nvidia.com/gpu: 1}
"""
GPU_POD = """
apiVersion: v1
kind: Pod
metadata: {name: one}
spec:
  containers: [{name: c, image: none, resources: {limits: {nvidia.com/gpu: 1}}}]
---
apiVersion: v1
kind: Pod
metadata: {name: two}
spec:
  containers: [{name: c, image: none, resources: {limits: {nvidia.com/gpu: 2}}}]
"""
OWNER = """
import sys, time
from pathlib import Path
from tests.cluster.processes import Processes

processes = Processes(Path(sys.argv[1]))
processes.start("sleeper", ["sleep", "60"])
print(processes.pid("sleeper"), flush=True)
time.sleep(60)
"""


@pytest.fixture(scope="module")
def newest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server alone, of the newest Kubernetes."""
    folder = tmp_path_factory.mktemp("newest")
    with ControlPlane(folder, newest=True, components=()) as plane:
        yield plane


@pytest.mark.skipif(ASSETS_VARIABLE in os.environ, reason="KUBEBUILDER_ASSETS may be any version")
def test_the_api_server_is_the_one_that_was_built(control_plane: ControlPlane) -> None:
    answer = control_plane.request("GET", "/version")
    assert answer["gitVersion"] == f"v{control_plane.version}" == "v1.34.4"


@pytest.mark.control_plane
def test_the_newest_api_server_answers_too(newest: ControlPlane) -> None:
    assert newest.request("GET", "/version")["gitVersion"] == f"v{newest.version}"
    assert newest.version.startswith("1.37.")


@pytest.mark.control_plane
def test_a_killed_api_server_comes_back_with_its_objects(newest: ControlPlane) -> None:
    with newest.namespace() as name:
        newest.restart(parts.API_SERVER)
        assert newest.request("GET", f"/api/v1/namespaces/{name}")


def test_a_service_account_may_do_what_its_role_says(cluster: Cluster, namespace: str) -> None:
    kubeconfig = cluster.service_account(namespace, "reader")
    cluster.kubectl("apply", "-n", namespace, "-f", "-", text=ROLE)
    reader = Cluster(kubeconfig, folder=cluster.folder)
    path = f"/api/v1/namespaces/{namespace}"
    assert eventually(lambda: reader.request("GET", f"{path}/configmaps"))
    with pytest.raises(ApiException) as refused:
        reader.request("GET", f"{path}/secrets")
    assert refused.value.status == 403


def test_the_audit_log_says_who_asked_for_what(control_plane: ControlPlane) -> None:
    someone = Cluster(control_plane.user("someone", ["a-group"]), folder=control_plane.folder)
    with pytest.raises(ApiException):
        someone.request("GET", "/api/v1/nodes")
    (event,) = [e for e in control_plane.audit_events() if e["user"]["username"] == "someone"]
    assert "a-group" in event["user"]["groups"]
    assert (event["verb"], event["responseStatus"]["code"]) == ("list", 403)


def test_a_real_scheduler_places_pods_on_fake_nodes(control_plane: ControlPlane) -> None:
    running = control_plane.running(parts.SCHEDULER, parts.KWOK)
    with control_plane.namespace() as name, running:
        control_plane.kubectl("apply", "-f", "-", text=FAKE_NODE)
        eventually(lambda: default_account(control_plane, name))
        control_plane.kubectl("apply", "-n", name, "-f", "-", text=GPU_POD)
        one, two = f"/api/v1/namespaces/{name}/pods/one", f"/api/v1/namespaces/{name}/pods/two"
        eventually(lambda: control_plane.request("GET", one)["status"]["phase"] == "Running")
        (condition,) = eventually(
            lambda: control_plane.request("GET", two)["status"].get("conditions")
        )
        control_plane.request("DELETE", "/api/v1/nodes/gpu-0")
    assert condition["reason"] == "Unschedulable"
    assert "Insufficient nvidia.com/gpu" in condition["message"]


def test_no_program_outlives_an_owner_that_is_killed(tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout
    sleeper = int(owner.stdout.readline())
    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    deadline = time.monotonic() + 10
    while is_alive(sleeper):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def default_account(cluster: Cluster, namespace: str) -> object:
    return cluster.request("GET", f"/api/v1/namespaces/{namespace}/serviceaccounts/default")


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
