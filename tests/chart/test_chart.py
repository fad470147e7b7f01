import json
import re
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from helm_python import HelmError, lint

from controller.controller_command import controller
from k8s.defaults import read_pod_defaults
from k8s.placement import PodSettings
from pangu_core import __version__
from tests.chart.variants import EVERYTHING, EVERYWHERE, VARIANTS, arguments, find, pods

CHART = Path(__file__).parents[2] / "charts" / "pangu-finetune"
CRDS = Path(__file__).parents[2] / "k8s" / "crds"
OLDEST_KUBERNETES = "1.31"
# Every switch


@VARIANTS
def test_every_object_fits_its_schema(render, values):
    for manifest in render(values):
        if not manifest["apiVersion"].startswith("monitoring.coreos.com"):
            kubernetes_validate.validate(manifest, OLDEST_KUBERNETES, strict=True)


@VARIANTS
def test_every_object_has_a_name_of_its_own_and_our_labels(render, values):
    manifests = render(values)
    keys = [(m["kind"], m["metadata"].get("namespace"), m["metadata"]["name"]) for m in manifests]
    assert len(set(keys)) == len(keys)
    for manifest in manifests:
        assert manifest["metadata"]["labels"]["app.kubernetes.io/name"] == "pangu-finetune"
        if values.get("labels"):
            assert manifest["metadata"]["labels"]["cost-centre"] == "42"


def test_helm_finds_nothing_to_complain_about():
    report = lint(CHART, EVERYTHING, strict=True)
    assert [m for m in report["messages"] if m["severity"] > 1] == []


def test_the_chart_has_the_version_of_the_code():
    about = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert (about["version"], about["appVersion"]) == (__version__, __version__)
    assert about["kubeVersion"] == ">= 1.31.0-0"


def test_the_controller_knows_every_flag(render):
    for values in (EVERYTHING, EVERYWHERE):
        controller.make_context("controller", list(arguments(render(values))))


# Values


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"imgae": {}}, "imgae"),
        ({"controller": {"replica": 2}}, "replica"),
        ({"controller": {"replicas": "two"}}, "controller/replicas"),
        ({"controller": {"replicas": 0}}, "controller/replicas"),
        ({"defaults": {"pods": {"nodeSelectr": {}}}}, "nodeSelectr"),
        ({"defaults": {"pods": {"env": [{"name": "PET_X", "value": "1"}]}}}, "env/0/name"),
        ({"defaults": {"pods": {"volumes": [{"name": "shm"}]}}}, "volumes/0/name"),
        ({"networkPolicies": {"jobs": {"egress": [{"port": 1}]}}}, "port"),
        ({"watch": {"namespaces": ["Not_A_Name"]}}, "watch/namespaces/0"),
        ({"image": {"digest": "sha256:12"}}, "image/digest"),
    ],
)  # fmt: skip
def test_a_slip_in_the_values_is_refused_and_named(render, values, named):
    with pytest.raises(HelmError, match=re.escape(named)):
        render(values)


def test_no_block_of_the_schema_takes_unknown_keys():
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    blocks = [schema, *schema["definitions"].values()]
    assert [b for b in blocks if "properties" in b and b["additionalProperties"] is not False] == []


def test_two_ways_to_say_where_are_refused(render):
    with pytest.raises(HelmError, match="leave one of them out"):
        render({"watch": {"namespaces": ["a"], "allNamespaces": True}})


def test_a_parent_charts_global_values_do_no_harm(render):
    assert render({"global": {"registry": "x"}}) == render()


def test_the_default_values_are_the_classes_own(chart, render):
    assert render(chart.values) == render()


# Pods


@VARIANTS
def test_every_pod_is_restricted(render, values):
    for pod in pods(render(values)):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"]
        assert not [v for v in pod.get("volumes", ()) if "hostPath" in v]


def test_only_pods_that_ask_for_it_get_the_token(render):
    manifests = render()
    assert find(manifests, "ServiceAccount")["automountServiceAccountToken"] is False
    assert [pod["automountServiceAccountToken"] for pod in pods(manifests)] == [True, True]


def test_changed_defaults_replace_the_controllers_pods(render):
    def checksum(values):
        template = find(render(values), "Deployment")["spec"]["template"]
        return template["metadata"]["annotations"]["pangu-finetune.io/config-checksum"]

    changed = {"defaults": {"pods": {"schedulerName": "gangs"}}}
    assert checksum({}) == checksum({"labels": {"a": "b"}}) != checksum(changed)


def test_the_controller_reads_the_defaults_that_helm_writes(render, tmp_path):
    path = tmp_path / "pods.yaml"
    path.write_text(find(render(EVERYTHING), "ConfigMap")["data"]["pods.yaml"], encoding="utf-8")
    assert read_pod_defaults(path) == PodSettings.model_validate(EVERYTHING["defaults"]["pods"])


def test_the_store_is_the_controllers_image_unless_another_is_named(render):
    assert f"--store-image=pangu-controller:{__version__}" in arguments(render())
    assert "--store-image=store:1" in arguments(render(EVERYTHING))


def test_selectors_pick_the_controller_and_never_the_test(render):
    manifests = render(EVERYTHING)
    labels = find(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"]
    test = find(manifests, "Pod", "pangu-controller-test")["metadata"]["labels"]
    for selector in (
        find(manifests, "Deployment")["spec"]["selector"]["matchLabels"],
        find(manifests, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        find(manifests, "Service")["spec"]["selector"],
        find(manifests, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
        assert not selector.items() <= test.items()


# Definitions


@pytest.mark.parametrize("name", ["pangujobs.yaml", "panguservices.yaml"])
def test_a_definition_is_the_projects_own(files, name):
    text = files()[f"templates/crds/{name}"]
    rendered = yaml.load(text, Loader=yaml.CSafeLoader)
    own = yaml.load((CRDS / name).read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    assert rendered["spec"] == own["spec"]
    assert rendered["metadata"]["name"] == own["metadata"]["name"]
    assert rendered["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_definitions_and_their_keeping_have_switches(files):
    path = "templates/crds/pangujobs.yaml"
    assert "resource-policy" not in files({"crds": {"keep": False}})[path]
    assert files({"crds": {"enabled": False}})[path].strip() == ""


# Network


def test_the_controller_is_reached_for_metrics_only_and_reaches_launchers(render):
    policy = find(render(EVERYTHING), "NetworkPolicy")["spec"]
    assert [port["port"] for rule in policy["ingress"] for port in rule["ports"]] == ["http"]
    launchers = next(r for r in policy["egress"] if r.get("ports") == [{"protocol": "TCP", "port": 8080}])  # fmt: skip
    (place,) = launchers["to"][0]["namespaceSelector"]["matchExpressions"]
    assert place["values"] == ["research", "products"]


def test_pods_of_jobs_have_a_policy_in_every_namespace(render):
    manifests = render(EVERYTHING)
    for namespace in ("research", "products"):
        policy = find(manifests, "NetworkPolicy", "pangu-jobs", namespace)["spec"]
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        assert policy["podSelector"] == policy["ingress"][0]["from"][0]["podSelector"]
    named = EVERYWHERE | {"networkPolicies": {"jobs": {"enabled": True, "namespaces": ["a"]}}}
    assert find(render(named), "NetworkPolicy", "pangu-jobs")["metadata"]["namespace"] == "a"


# Words


@pytest.mark.parametrize(
    ("values", "warning"),
    [
        ({"controller": {"replicas": 1}}, "Use 2."),
        ({"crds": {"keep": False}}, "deletes every PanguJob"),
        ({"crds": {"enabled": False}}, "new fields may be missing"),
        ({"image": {"tag": "latest"}}, "Use a version"),
        ({"monitoring": {"rules": {"enabled": True}}}, "PanguControllerDown fires"),
        ({"watch": {"allNamespaces": True}, "networkPolicies": {"jobs": {"enabled": True}}}, "covers no namespace"),
    ],
)  # fmt: skip
def test_a_bad_combination_is_warned_of(files, values, warning):
    assert warning in files(values)["templates/NOTES.txt"]


def test_a_good_combination_is_not_warned_of(files):
    good = {
        "image": {"repository": "registry.example.com/pangu-controller"},
        "watch": {"nodes": True},
    }
    warnings = files(good)["templates/NOTES.txt"].partition("Mind:")[2].strip().splitlines()
    assert len(warnings) == 1
    assert "no PyTorchJob" in warnings[0]  # there is no cluster
