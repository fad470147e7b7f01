"""What the real Job controller does with our run-once stages, and the local one beside it."""

from pathlib import Path
from typing import Any

import pytest

from controller.local import operators
from k8s import names
from k8s.render import render_stage
from k8s.spec import PanguJob, parse
from pangu_core.errors import ConfigError
from tests.cluster.access import eventually
from tests.cluster.control_plane import ControlPlane
from tests.cluster.stand_in import StandIn

pytestmark = [pytest.mark.cluster, pytest.mark.control_plane]

EXAMPLE = Path(__file__).parents[2] / "examples" / "tiny-cluster.yaml"
WRONG_CONFIG = ConfigError.exit_code
Object = dict[str, Any]


class Stage:
    """The Job of a stage, whose one pod runs."""

    def __init__(self, plane: ControlPlane, stand_in: StandIn) -> None:
        self.plane, self.stand_in = plane, stand_in
        (job,) = [each for each in parse(EXAMPLE) if isinstance(each, PanguJob)]
        manifest = render_stage(job, "preprocess")[-1]
        del manifest["metadata"]["namespace"]
        jobs = f"/apis/batch/v1/namespaces/{stand_in.namespace}/jobs"
        plane.request("POST", jobs, manifest)
        self._path = f"{jobs}/{manifest['metadata']['name']}"
        self.first = eventually(self.running)

    def job(self) -> Object:
        """The Job as stored."""
        found: Object = self.plane.request("GET", self._path)
        return found

    def pods(self) -> list[Object]:
        """Its pods."""
        path = f"/api/v1/namespaces/{self.stand_in.namespace}/pods"
        found: list[Object] = self.plane.request("GET", path)["items"]
        return found

    def running(self) -> str | None:
        """The name of the pod that runs."""
        found = [p["metadata"]["name"] for p in self.pods() if p["status"]["phase"] == "Running"]
        return found[0] if found else None

    def end(self, code: int) -> None:
        """Have the pod exit."""
        assert self.first
        self.stand_in.end(self.first, code)

    def conditions(self) -> dict[str, str]:
        """Type -> reason of those that are true."""
        found = self.job()["status"].get("conditions", [])
        return {c["type"]: c["reason"] for c in found if c["status"] == "True"}


@pytest.fixture
def stage(control_plane: ControlPlane, stand_in: StandIn) -> Stage:
    return Stage(control_plane, stand_in)


@pytest.mark.parametrize(
    ("code", "condition", "reason"),
    [
        (0, "Complete", "CompletionsReached"),
        (WRONG_CONFIG, "Failed", "PodFailurePolicy"),
        (1, "Failed", "BackoffLimitExceeded"),
        (127, "Failed", "BackoffLimitExceeded"),
    ],
)
def test_a_code_up_to_127_ends_the_job(
    stage: Stage, code: int, condition: str, reason: str
) -> None:
    stage.end(code)
    eventually(lambda: stage.conditions().get(condition) == reason)
    (pod,) = stage.pods()
    ruling = operators.rule({**stage.job(), "kind": "Job", "status": {}}, [pod])
    assert ruling.condition
    assert ruling.condition["type"] == condition


def test_a_code_of_128_and_above_replaces_the_pod(stage: Stage) -> None:
    stage.end(128)
    # After 10 s: the Job controller doubles the wait at each loss, evictions included, up to 10
    # minutes; the local one does not wait.
    eventually(lambda: stage.running() not in (None, stage.first))
    assert stage.conditions() == {}
    assert stage.pods()[0]["spec"]["containers"][0]["name"] == names.STAGE_CONTAINER
