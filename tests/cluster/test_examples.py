"""Everything that we print for kubectl is accepted by a real API server."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes.client import ApiException

from controller.cli import main
from k8s.spec import PanguJob, parse
from k8s.stages import plan
from tests.cluster.access import Cluster

pytestmark = pytest.mark.cluster

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
EXAMPLES_NAMESPACE = "pangu"


STAGES = [
    (example, stage.name)
    for example in EXAMPLES
    for each in parse(example)
    if isinstance(each, PanguJob)
    for stage in plan(each)
]


@pytest.fixture(scope="module")
def examples_namespace(cluster: Cluster) -> Iterator[str]:
    """The namespace that an example names; a dry run wants it to be there."""
    path = "/api/v1/namespaces"
    body = {"metadata": {"name": EXAMPLES_NAMESPACE}}
    try:
        cluster.request("POST", path, body)
    except ApiException as error:
        if error.status != 409:
            raise
        yield EXAMPLES_NAMESPACE  # somebody else's: it stays
        return
    yield EXAMPLES_NAMESPACE
    cluster.request("DELETE", f"{path}/{EXAMPLES_NAMESPACE}")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_what_is_rendered_is_accepted(
    cluster: Cluster,
    examples_namespace: str,
    example: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = main(["render", str(example)])
    rendered, complaint = capsys.readouterr()
    assert (code, complaint) == (0, "")
    namespace = [] if "namespace:" in rendered else ["--namespace", examples_namespace]
    said = cluster.kubectl("apply", "--dry-run=server", *namespace, "-f", "-", text=rendered)
    assert said.count("(server dry run)") == rendered.count("\nkind: ")


@pytest.mark.parametrize(
    ("example", "stage"), STAGES, ids=[f"{path.stem}-{stage}" for path, stage in STAGES]
)
def test_each_stage_alone_is_accepted_without_a_controller(
    cluster: Cluster,
    examples_namespace: str,
    example: Path,
    stage: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["render", str(example), "--stage", stage]) == 0
    rendered = capsys.readouterr().out
    assert "ownerReferences" not in rendered
    namespace = [] if "namespace:" in rendered else ["--namespace", examples_namespace]
    said = cluster.kubectl("apply", "--dry-run=server", *namespace, "-f", "-", text=rendered)
    assert said.count("(server dry run)") == rendered.count("\nkind: ")
    assert ("pytorchjob.kubeflow.org" in said) == (stage == "train")
