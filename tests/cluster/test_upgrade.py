"""Objects that an earlier version stored, under the definitions and the controller of this one."""

from collections.abc import Iterator

import pytest
import yaml

from k8s.spec import read_job
from k8s.status import from_dict
from tests.cluster.access import MERGE_PATCH, eventually
from tests.cluster.control_plane import ControlPlane
from tests.cluster.jobs import CHECKOUT, Jobs, until_training
from tests.cluster.stand_in import StandIn

pytestmark = [pytest.mark.cluster, pytest.mark.control_plane]
FIXTURES = CHECKOUT / "tests" / "cluster" / "fixtures"
EARLIER = yaml.safe_load_all((FIXTURES / "earlier-jobs.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """One of its own, whose definition of PanguJob is the earlier one."""
    folder = tmp_path_factory.mktemp("earlier")
    with ControlPlane(folder, manifests=(FIXTURES / "earlier-definition.yaml",)) as running:
        yield running


def test_jobs_of_an_earlier_version_are_read_and_worked_on(plane, tmp_path):
    with plane.namespace() as namespace, StandIn(plane, namespace, until_training) as pods:
        jobs = Jobs(pods, tmp_path)
        eventually(lambda: plane.open("GET", jobs.path()).status == 200)
        for document in EARLIER:
            plane.request("POST", jobs.path(), document)
            if "status" in document:
                path = f"{jobs.path(document['metadata']['name'])}/status"
                plane.request("PATCH", path, {"status": document["status"]}, kind=MERGE_PATCH)
        plane.kubectl(
            "apply", "--server-side", "--force-conflicts", "-f", str(CHECKOUT / "k8s/crds")
        )
        jobs.start_controller()
        try:
            jobs.wait_for_pods("train", 2, attempt=1)
            done = plane.request("GET", jobs.path("done"))
        finally:
            jobs.close()
    status = from_dict(done["status"])
    assert (status.phase, status.exit_code, status.restarts) == ("Complete", 0, {"DataError": 1})
    assert [stage.attempt for stage in status.stages] == [1, 2, 1]
    assert status.history[0].message == "a line is cut off"
    assert read_job(done).spec.train.steps == 100
    assert not [p for p in pods.pods() if p["metadata"]["name"].startswith("done-")]
