"""The committed CRDs; tests/contracts holds them to the source, tests/cluster to an API server."""

from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings

from k8s import names
from k8s.changeable import CHANGEABLE
from k8s.rules import RULES
from k8s.schema import RULES_KEY, walk
from k8s.spec import JobSpec, parse
from pangu_core.errors import ConfigError
from pangu_core.loading import load
from tests.k8s.candidates import GOOD, specs

CHECKOUT = Path(__file__).parents[2]
EXAMPLES = sorted((CHECKOUT / "examples").glob("*.yaml"))
CRDS = {
    crd["spec"]["names"]["kind"]: crd
    for crd in (
        yaml.load(path.read_text("utf-8"), yaml.CSafeLoader)
        for path in sorted((CHECKOUT / "k8s/crds").glob("*.yaml"))
    )
}
OPAQUE = "x-kubernetes-preserve-unknown-fields"
INT_OR_STRING = "x-kubernetes-int-or-string"
UNFILLED = (".spec.pods", ".spec.podsByStage", ".spec.serve.pods", ".status")


def version_of(kind):
    (version,) = CRDS[kind]["spec"]["versions"]
    return version


def nodes(kind):
    return dict(walk("", version_of(kind)["schema"]["openAPIV3Schema"]))


def strict(node):
    """The JSON schema of what an API server takes under strict field validation."""
    if node.get(INT_OR_STRING):
        return {**node, "type": ["integer", "string"]}
    result = dict(node)
    if "properties" in node:
        result["properties"] = {key: strict(field) for key, field in node["properties"].items()}
        result["additionalProperties"] = False
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            result[key] = strict(node[key])
    return result


def problems(spec, kind="PanguJob"):
    schema = strict(version_of(kind)["schema"]["openAPIV3Schema"]["properties"]["spec"])
    # Draft 4 has OpenAPI 3.0's exclusive bounds.
    return [error.message for error in jsonschema.Draft4Validator(schema).iter_errors(spec)]


def is_accepted(spec):
    try:
        load(JobSpec, spec)
    except ConfigError:
        return False
    return True


@pytest.mark.parametrize("kind", CRDS)
def test_every_node_has_a_type_and_nothing_is_left_of_pydantics_own_words(kind):
    allowed = {"description", "type", "format", "properties", "required", "items", "enum"}
    allowed |= {"additionalProperties", "default", "pattern", "minLength", "maxLength"}
    allowed |= {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "maxItems"}
    allowed |= {"maxProperties", RULES_KEY, OPAQUE, INT_OR_STRING}
    allowed |= {"x-kubernetes-list-type", "x-kubernetes-list-map-keys"}
    for path, node in nodes(kind).items():
        assert set(node) <= allowed, path
        assert {"type", OPAQUE, INT_OR_STRING} & set(node), path
        assert not {"properties", "additionalProperties"} <= set(node), path


@pytest.mark.parametrize("kind", CRDS)
def test_a_definition_is_small(kind):
    (path,) = (CHECKOUT / "k8s/crds").glob(f"{kind.lower()}s.yaml")
    assert path.stat().st_size < 100_000


@pytest.mark.parametrize("kind", CRDS)
def test_every_rule_says_what_is_wrong_and_what_to_do(kind):
    rules = [rule for node in nodes(kind).values() for rule in node.get(RULES_KEY, ())]
    assert len(rules) > 20
    for rule in rules:
        said = rule.get("message") or rule["messageExpression"]
        assert "; " in said or said.startswith("has a key that does not match")
        assert "\n" not in said


def test_every_rule_is_used():
    written = {
        rule["rule"] for kind in CRDS for node in nodes(kind).values()
        for rule in node.get(RULES_KEY, ())
    }  # fmt: skip
    unused = [n for n, rules in RULES.items() if not {r.holds for r in rules} <= written]
    assert unused == []


def test_descriptions_are_there_but_for_all_pods_blocks_but_one():
    described = nodes("PanguJob")
    assert "description" in described[".spec.pods.gracePeriod"]
    assert "description" in described[".spec.train.optimizer.learningRate"]
    assert "description" not in described[".spec.podsByStage.*.gracePeriod"]
    assert "description" not in described[".spec.serve.pods.gracePeriod"]


def test_defaults_are_filled_in_where_absence_means_nothing_else():
    found = {path: node["default"] for path, node in nodes("PanguJob").items() if "default" in node}
    assert found[".spec.train.nodes"] == {"min": 1, "max": 1, "processesPerNode": 1}
    assert found[".spec.train.nodes.max"] == 1
    assert found[".spec.train.optimizer.epsilon"] == 1e-8
    assert found[".spec.suspend"] is False
    assert [path for path in found if path.startswith(UNFILLED) and found[path] != {}] == []
    # A claim that exists has a mode of its own; whether the user wrote one matters.
    assert ".spec.workspace.accessMode" not in found


def test_filled_in_defaults_are_those_of_the_settings():
    def filled(node, value):
        for key, field in node.get("properties", {}).items():
            if "default" in field:
                value.setdefault(key, field["default"])
            if key in value and isinstance(value[key], dict):
                value[key] = filled(field, dict(value[key]))
        return value

    spec = filled(nodes("PanguJob")[".spec"], dict(GOOD))
    assert load(JobSpec, spec) == load(JobSpec, GOOD)
    assert spec["train"]["checkpoint"]["everySteps"] == 300


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_fits_the_schema(example):
    for document in yaml.safe_load_all(example.read_text("utf-8")):
        assert problems(document["spec"], document["kind"]) == []


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(specs())
def test_what_we_accept_the_schema_accepts(spec):
    assume(is_accepted(spec))
    assert problems(spec) == []
    assert problems(load(JobSpec, spec).dump()) == []


def test_conditions_are_merged_by_their_type():
    for kind in CRDS:
        conditions = nodes(kind)[".status.conditions"]
        assert conditions["x-kubernetes-list-map-keys"] == ["type"]
        assert "observedGeneration" in conditions["items"]["properties"]


def test_only_a_service_can_be_scaled_by_replicas():
    assert version_of("PanguJob")["subresources"] == {"status": {}}
    assert (
        version_of("PanguService")["subresources"]["scale"]["specReplicasPath"] == ".spec.replicas"
    )


@pytest.mark.parametrize("kind", CRDS)
def test_every_column_and_path_names_a_field(kind):
    known = nodes(kind)
    version = version_of(kind)
    paths = [column["jsonPath"] for column in version["additionalPrinterColumns"]]
    paths += version["subresources"].get("scale", {}).values()
    for path in paths:
        assert path.split("[")[0] in known or path == ".metadata.creationTimestamp"


def test_what_may_change_is_named_by_its_path():
    assert {f".spec.{path}" for path in CHANGEABLE} <= set(nodes("PanguJob"))


def test_every_other_field_of_a_job_stays():
    known = nodes("PanguJob")
    fixed = {
        f"{path}{rule['fieldPath']}"
        for path, node in known.items()
        for rule in node.get(RULES_KEY, ())
        if "oldSelf" in rule["rule"]
    }
    assert {".spec.model", ".spec.train.seed", ".spec.train.nodes.processesPerNode"} <= fixed
    changeable = {f".spec.{path}" for path in CHANGEABLE}
    assert fixed & changeable == set()
    for path in known:
        if not path.startswith(".spec."):
            continue
        covers = [each for each in fixed | changeable if f"{path}.".startswith(f"{each}.")]
        holds = [each for each in fixed | changeable if each.startswith(f"{path}.")]
        assert len(covers) == 1 or holds, path


def test_a_service_may_change_in_everything():
    rules = [rule for node in nodes("PanguService").values() for rule in node.get(RULES_KEY, ())]
    assert [rule for rule in rules if "oldSelf" in rule["rule"]] == []


def test_stages_are_those_of_the_form():
    rule = nodes("PanguJob")[".spec.podsByStage"][RULES_KEY][0]
    assert all(f"'{stage}'" in rule["rule"] for stage in names.STAGES)
    assert "export" in rule["message"]


def test_examples_read_back_are_the_same_job():
    for example in EXAMPLES:
        for each in parse(example):
            assert problems(each.spec.dump(), each.kind) == []
