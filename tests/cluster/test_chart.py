"""The chart by the real Helm on a real API server: install, upgrade, uninstall, and again."""

import contextlib
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helm_python import Config, HelmError

from pangu_core.rendezvous.ports import free_port
from tests.cluster.access import eventually
from tests.cluster.behaviour import Behaviour, Pod
from tests.cluster.control_plane import CONTROLLER_MANAGER, ControlPlane
from tests.cluster.stand_in import StandIn

pytestmark = [pytest.mark.cluster, pytest.mark.control_plane]
CHART = Path(__file__).parents[2] / "charts" / "pangu-finetune"
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{}.pangu-finetune.io"
JOB = """
apiVersion: pangu-finetune.io/v1alpha1
kind: PanguJob
metadata: {name: novel}
spec:
  image: pangu-core:0.1.0
  workspace: {claimName: work}
  model: {preset: tiny}
  data: {input: "corpus/*.txt"}
  train: {steps: 10, globalBatchSize: 8}
"""
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
GUEST = {"crds": {"enabled": False}}  # a release that uses the definitions of another


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane of its own, since definitions belong to a whole cluster."""
    folder = tmp_path_factory.mktemp("chart")
    plugins = ["OwnerReferencesPermissionEnforcement"]
    components = (CONTROLLER_MANAGER,)
    with ControlPlane(folder, components=components, admission_plugins=plugins) as running:
        yield running


@pytest.fixture
def namespaces(plane: ControlPlane) -> Iterator[tuple[str, str]]:
    """Two namespaces; at the end the definitions are gone, and every job with them."""
    with plane.namespace(RESTRICTED) as one, plane.namespace(RESTRICTED) as other:
        yield one, other
        definitions = [f"{plural}.pangu-finetune.io" for plural in ("pangujobs", "panguservices")]
        plane.kubectl("delete", "--ignore-not-found", "crd", *definitions)


class Helm:
    """Releases of the chart in one namespace."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self.namespace = namespace
        self._config = Config(kubeconfig_path=plane.kubeconfig, namespace=namespace)

    def install(
        self, name: str = "pangu", values: dict[str, Any] | None = None, **more: Any
    ) -> Any:
        return self._config.install(CHART, name, values or {}, namespace=self.namespace, **more)

    def upgrade(self, name: str = "pangu", values: dict[str, Any] | None = None) -> Any:
        return self._config.upgrade(CHART, name, values or {}, namespace=self.namespace)

    def uninstall(self, name: str = "pangu") -> Any:
        return self._config.uninstall(name)

    def test(self, name: str = "pangu") -> Any:
        return self._config.test(name, timeout=60)

    @contextlib.contextmanager
    def installed(
        self, name: str = "pangu", values: dict[str, Any] | None = None
    ) -> Iterator[None]:
        self.install(name, values)
        try:
            yield
        finally:
            self.uninstall(name)


def deployment(plane, namespace):
    return plane.request(
        "GET", f"/apis/apps/v1/namespaces/{namespace}/deployments/pangu-controller"
    )


def arguments(plane, namespace):
    return deployment(plane, namespace)["spec"]["template"]["spec"]["containers"][0]["args"]


def definition(plane, plural="pangujobs"):
    return plane.request("GET", CRD.format(plural))


def objects(plane, namespace):
    kinds = (
        "deployments,services,configmaps,serviceaccounts,roles,rolebindings,poddisruptionbudgets"
    )
    names = plane.kubectl("get", "-n", namespace, "-o", "name", kinds).split()
    return {name for name in names if "pangu" in name}


def is_test(pod: Pod) -> bool:
    return bool(pod["metadata"]["labels"].get("app.kubernetes.io/component") == "test")


def test_an_install_becomes_ready_and_passes_its_own_test(plane, namespaces):
    with StandIn(plane, namespaces[0]) as stand_in:
        helm = Helm(plane, namespaces[0])
        helm.install(wait="watcher", timeout=60)
        assert deployment(plane, namespaces[0])["status"]["readyReplicas"] == 2
        stand_in.policy = lambda pod: Behaviour(exit_code=0 if is_test(pod) else None)
        helm.test()
        stand_in.policy = lambda pod: Behaviour(exit_code=1 if is_test(pod) else None)
        with pytest.raises(HelmError):
            helm.test()
        helm.uninstall()


def test_an_upgrade_changes_what_was_asked_for_and_no_definition(plane, namespaces):
    helm = Helm(plane, namespaces[0])
    with helm.installed():
        before = definition(plane)["metadata"]
        helm.upgrade(values={"controller": {"workers": 8}, "watch": {"nodes": True}})
        assert {"--workers=8", "--watch-nodes"} <= set(arguments(plane, namespaces[0]))
        after = definition(plane)["metadata"]
        assert (after["uid"], after["generation"]) == (before["uid"], before["generation"])


def test_an_uninstall_keeps_definitions_and_jobs_and_nothing_else(plane, namespaces):
    helm = Helm(plane, namespaces[0])
    helm.install()
    eventually(lambda: plane.kubectl("apply", "-n", namespaces[0], "-f", "-", text=JOB))
    assert len(objects(plane, namespaces[0])) > 5
    helm.uninstall()
    assert eventually(lambda: not objects(plane, namespaces[0]))
    assert plane.kubectl("get", "-n", namespaces[0], "-o", "name", "pangujobs").split() == [
        "pangujob.pangu-finetune.io/novel"
    ]
    assert "pangu" not in plane.kubectl("get", "clusterroles", "-o", "name")
    with helm.installed():  # under the old name: nothing to add
        assert definition(plane)["spec"]["group"] == "pangu-finetune.io"


def test_a_second_team_needs_one_flag(plane, namespaces):
    one, other = (Helm(plane, namespace) for namespace in namespaces)
    with one.installed():
        with pytest.raises(HelmError, match=r"add --set crds\.enabled=false"):
            other.install()
        with other.installed(values=GUEST):
            assert arguments(plane, namespaces[1])[0] == f"--namespace={namespaces[1]}"
        assert deployment(plane, namespaces[0])


def test_no_namespace_gets_two_controllers(plane, namespaces):
    one, other = (Helm(plane, namespace) for namespace in namespaces)
    with one.installed(), pytest.raises(HelmError, match="cannot be imported"):
        other.install(values=GUEST | {"watch": {"namespaces": [namespaces[0]]}})
    everywhere = GUEST | {"watch": {"allNamespaces": True}}
    with one.installed(values=everywhere), pytest.raises(HelmError, match="cannot be imported"):
        other.install(values=everywhere)


def test_a_reinstall_under_another_name_uses_or_takes_over_the_definitions(plane, namespaces):
    helm = Helm(plane, namespaces[0])
    with helm.installed("first"):
        pass
    with pytest.raises(HelmError, match=r"release first in namespace .* --take-ownership"):
        helm.install("second")
    with helm.installed("second", GUEST):
        assert arguments(plane, namespaces[0])
    # What --take-ownership does, which this Helm in the process has no argument for.
    owner = ("meta.helm.sh/release-name=second", f"meta.helm.sh/release-namespace={namespaces[0]}")
    names = [f"{plural}.pangu-finetune.io" for plural in ("pangujobs", "panguservices")]
    plane.kubectl("annotate", "--overwrite", "crd", *names, *owner)
    with helm.installed("second"):
        assert definition(plane)["metadata"]["labels"]["app.kubernetes.io/instance"] == "second"


@pytest.mark.parametrize("everywhere", [False, True], ids=["namespaced", "everywhere"])
def test_the_controller_is_ready_with_the_charts_rights(plane, namespaces, tmp_path, everywhere):
    watch = {"allNamespaces": everywhere, "nodes": True}
    with Helm(plane, namespaces[0]).installed(values={"watch": watch}):
        defaults = tmp_path / "pods.yaml"
        path = f"/api/v1/namespaces/{namespaces[0]}/configmaps/pangu-controller"
        defaults.write_text(plane.request("GET", path)["data"]["pods.yaml"], encoding="utf-8")
        port = free_port()
        replaced = {"--pod-defaults": defaults, "--probe-port": port}
        given = [each.partition("=") for each in arguments(plane, namespaces[0])]
        flags = [f"{f}={replaced.get(f, value)}" if eq else f for f, eq, value in given]
        kubeconfig = plane.service_account(namespaces[0], "pangu-controller")
        log = tmp_path / "log"
        with log.open("w") as output, _controller(flags, kubeconfig, output):
            assert eventually(lambda: _answers(f"http://127.0.0.1:{port}/readyz"))
            lease = (
                f"/apis/coordination.k8s.io/v1/namespaces/{namespaces[0]}/leases/pangu-controller"
            )
            assert eventually(lambda: plane.request("GET", lease)["spec"]["holderIdentity"])
            plane.kubectl("apply", "-n", namespaces[0], "-f", "-", text=JOB)
            job = ("get", "-n", namespaces[0], "-o", "yaml", "pangujob", "novel")
            assert eventually(lambda: yaml.safe_load(plane.kubectl(*job)).get("status"))
        assert "forbidden" not in log.read_text(encoding="utf-8")


@contextlib.contextmanager
def _controller(flags: list[str], kubeconfig: Path, output: Any) -> Iterator[None]:
    command = [Path(sys.executable).with_name("pangu"), "controller", *flags]
    environment = os.environ | {"KUBECONFIG": str(kubeconfig)}
    process = subprocess.Popen(command, env=environment, stderr=output, stdout=output)
    try:
        yield
    finally:
        process.terminate()
        assert process.wait(timeout=30) == 0


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False
