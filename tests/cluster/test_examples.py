"""Everything that we print for kubectl is accepted by a real API server."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes.client import ApiException

from controller.cli import main
from tests.cluster.access import Cluster

pytestmark = pytest.mark.cluster

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
EXAMPLES_NAMESPACE = "pangu"


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
    if "not built yet" in complaint:
        pytest.skip(complaint.strip())
    assert code == 0
    namespace = [] if "namespace:" in rendered else ["--namespace", examples_namespace]
    said = cluster.kubectl("apply", "--dry-run=server", *namespace, "-f", "-", text=rendered)
    assert said.count("(server dry run)") == rendered.count("\nkind: ")
