"""One control plane for the session; each test has a namespace of its own."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.access import Cluster, given_cluster
from tests.cluster.control_plane import ControlPlane
from tests.cluster.jobs import CHECKOUT, Jobs, until_training
from tests.cluster.stand_in import StandIn

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Our own control plane, whose parts may be stopped; audited, and stricter than by default."""
    folder = tmp_path_factory.mktemp("control-plane")
    plugins = ["OwnerReferencesPermissionEnforcement"]
    with ControlPlane(folder, audit=True, admission_plugins=plugins) as plane:
        yield plane
    shutil.rmtree(folder / "etcd")  # pytest keeps the rest, logs above all


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """The cluster that ``KUBECONFIG`` names, else our own: for what any cluster must do."""
    given = given_cluster(tmp_path_factory.mktemp("given-cluster"))
    return given or request.getfixturevalue("control_plane")


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace for one test."""
    with cluster.namespace() as name:
        yield name


@pytest.fixture
def stand_in(control_plane: ControlPlane) -> Iterator[StandIn]:
    """Runs the pods of a namespace of its own, where nothing but restricted pods is let in."""
    with control_plane.namespace(RESTRICTED) as name, StandIn(control_plane, name) as running:
        yield running


@pytest.fixture(scope="session")
def crds(control_plane: ControlPlane) -> None:
    """Our definitions are there."""
    control_plane.kubectl("apply", "-f", str(CHECKOUT / "k8s/crds"))


@pytest.fixture
def jobs(crds: None, stand_in: StandIn, tmp_path: Path) -> Iterator[Jobs]:
    """Jobs whose trainers run and whose other stages end well, with one controller."""
    stand_in.policy = until_training
    running = Jobs(stand_in, tmp_path)
    running.start_controller()
    yield running
    running.close()
