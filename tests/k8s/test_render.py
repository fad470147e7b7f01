import re
from pathlib import Path

import jinja2
import kubernetes_validate
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from k8s import names, render
from k8s.check import pod_of, problems
from k8s.render import render_job, render_notice, render_stage
from k8s.spec import parse, parse_job
from k8s.stages import plan
from k8s.text import one_line, pretty_documents

ROOT = Path(__file__).parents[2]
GOLDEN = sorted((ROOT / "tests" / "golden" / "rendered").glob("*.yaml"))
OLDEST_KUBERNETES = "1.31"
WHOLE = (
    "model.from=weights/old",
    "split={always: true}",
    "export={to: s3://b/out, endpoint: 'https://minio', secretRef: {name: keys}}",
    "data.input=s3://b/*.txt",
    "workspace={size: 10Gi, storageClassName: fast}",
    "metadata.uid=1b4e28ba-2fa1-11d2-883f-0016d3cca427",
    "metadata.namespace=research",
    "tokenizer=vocab/own.model",
    "queue={name: research, priorityClass: low}",
    "pods={serviceAccountName: trainer, runtimeClassName: nvidia, imagePullPolicy: Always, "
    "envFrom: [{secretRef: {name: proxy}}], schedulerName: gangs, annotations: {a: b}, "
    "volumes: [{name: c, csi: {driver: d.example.com}}, {name: e, emptyDir: {medium: Memory}}], "
    "affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: "
    "{nodeSelectorTerms: [{matchExpressions: [{key: gpu, operator: Exists}]}]}}}}",
)
HOSTILE = st.text(st.characters(exclude_categories=["Cs"]), min_size=1) | st.sampled_from(
    [
        "中文",
        "😀",
        "'\"",
        "a\nb",
        "{{ image }}",
        "{% if %}",
        ": ",
        "1e3",
        "0o17",
        "# x",
        "\x00",
        "&a",
    ]
)


def find(manifests, kind):
    return next(each for each in manifests if each["kind"] == kind)


def environment_of(manifest):
    (container,) = pod_of(manifest)["spec"]["containers"]
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda path: path.stem)
def test_examples_render_as_the_golden_files_say(golden):
    manifests = [
        each for form in parse(ROOT / "examples" / golden.name) for each in render.render(form)
    ]
    assert pretty_documents(manifests) == golden.read_text(encoding="utf-8")


def test_every_example_has_a_golden_file():
    examples = (ROOT / "examples").glob("*.yaml")
    assert {path.name for path in examples} == {path.name for path in GOLDEN}


@pytest.mark.parametrize("overrides", [(), WHOLE], ids=["small", "whole"])
def test_every_object_fits_its_schema(job, overrides):
    for manifest in render_job(job(*overrides)):
        if manifest["kind"] != "PyTorchJob":
            kubernetes_validate.validate(manifest, OLDEST_KUBERNETES, strict=True)


@pytest.mark.parametrize("secret", ["", ", secretRef: {name: hook}"], ids=["open", "with a token"])
def test_the_call_about_a_jobs_end_fits_its_schema(job, secret):
    told = job("metadata.uid=u", f"notify={{url: 'https://hook'{secret}}}")
    manifests = render_notice(told, 2, '{"phase": "Failed"}', image="controller")
    for manifest in manifests:
        kubernetes_validate.validate(manifest, OLDEST_KUBERNETES, strict=True)
    assert problems(manifests) == []
    (container,) = pod_of(manifests[-1])["spec"]["containers"]
    assert ("PANGU_NOTIFY_TOKEN" in environment_of(manifests[-1])) == bool(secret)
    assert container["image"] == "controller"


@pytest.mark.parametrize("overrides", [(), WHOLE], ids=["small", "whole"])
def test_the_trainers_pod_fits_its_schema(job, overrides):
    template = pod_of(render_stage(job(*overrides), "train")[-1])
    pod = template | {"apiVersion": "v1", "kind": "Pod"}
    kubernetes_validate.validate(pod, OLDEST_KUBERNETES, strict=True)


@pytest.mark.parametrize("overrides", [(), WHOLE], ids=["small", "whole"])
def test_all_manifests_agree(job, overrides):
    assert problems(render_job(job(*overrides))) == []


def test_a_run_once_stage_is_one_pod_that_is_replaced_only_when_it_was_not_at_fault(job):
    spec = render_stage(job(), "merge")[-1]["spec"]
    rules = spec["podFailurePolicy"]["rules"]
    assert (spec["backoffLimit"], spec["podReplacementPolicy"]) == (0, "Failed")
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert [rule["action"] for rule in rules] == ["FailJob", "Ignore", "Ignore"]
    assert rules[0]["onExitCodes"]["values"] == [2]
    assert rules[1]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert rules[2]["onExitCodes"]["values"] == list(range(128, 256))


def test_training_is_elastic_workers_that_meet_at_their_own_store(job):
    manifests = render_stage(
        job("train.nodes={min: 2, max: 4, processesPerNode: 8}", "metadata.uid=u"), "train", 3
    )
    spec, service = find(manifests, "PyTorchJob")["spec"], find(manifests, "Service")
    assert spec["nprocPerNode"] == "8"
    assert spec["runPolicy"] == {"cleanPodPolicy": "Running"}
    assert spec["elasticPolicy"] == {
        "minReplicas": 2,
        "maxReplicas": 4,
        "maxRestarts": 1_000_000,
        "rdzvBackend": "pangu",
        "rdzvHost": service["metadata"]["name"],
        "rdzvPort": service["spec"]["ports"][0]["port"],
        "rdzvId": "u-3",
    }
    assert list(spec["pytorchReplicaSpecs"]) == ["Worker"]
    worker = spec["pytorchReplicaSpecs"]["Worker"]
    assert (worker["replicas"], worker["restartPolicy"]) == (4, "ExitCode")
    assert "restartPolicy" not in worker["template"]["spec"]


def test_every_pod_meets_the_restricted_standard_and_holds_no_token(job):
    for manifest in render_job(job(*WHOLE)):
        pod = pod_of(manifest)
        if pod is None:
            continue
        (container,) = pod["spec"]["containers"]
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert pod["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_only_training_pods_ask_for_gpus(job):
    with_gpus = [
        manifest["kind"]
        for manifest in render_job(job(*WHOLE))
        if (pod := pod_of(manifest)) and "nvidia.com/gpu" in str(pod["spec"]["containers"])
    ]
    assert with_gpus == ["PyTorchJob"]


def test_commands_hold_no_absolute_path(job):
    for manifest in render_job(job(*WHOLE)):
        if pod := pod_of(manifest):
            (container,) = pod["spec"]["containers"]
            assert container["command"][:2] == ["python", "-m"]
            assert not any(part.startswith("/") for part in container["command"])
            assert "args" not in container


def test_a_trainer_is_told_where_everything_is(job):
    environment = environment_of(render_stage(job("pods.gracePeriod=90"), "train")[-1])
    assert environment["PANGU_CONFIG"] == "/etc/pangu/config.yaml"
    assert environment["PANGU_WORKSPACE"] == "/workspace"
    assert environment["PANGU_GRACE_SECONDS"] == "90"
    assert environment["PANGU_PROGRESS_PORT"] == str(names.PROGRESS_PORT)
    assert environment["PANGU_AGENT_NAME"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    assert environment["PANGU_AGENT_ADDRESS"] == {"fieldRef": {"fieldPath": "status.podIP"}}


def test_the_config_map_holds_the_stages_config_and_does_not_change(job):
    whole = job(*WHOLE)
    for stage in plan(whole):
        config_map = render_stage(whole, stage.name, 5)[0]
        text = config_map["data"]["config.yaml"]
        assert config_map["immutable"] is True
        assert yaml.safe_load(text) == stage.config(5).dump()


def test_the_checksum_follows_the_config(job):
    def checksum(*overrides):
        pod = pod_of(render_stage(job(*overrides), "train")[-1])
        return pod["metadata"]["annotations"][names.CHECKSUM_ANNOTATION]

    assert checksum() == checksum("pods.gracePeriod=90")
    assert checksum() != checksum("train.steps=11")


def test_another_attempt_shares_no_object_with_the_one_before(job):
    whole = job(*WHOLE)

    def objects(attempt):
        return {
            (manifest["kind"], manifest["metadata"]["name"])
            for stage in plan(whole)
            for manifest in render_stage(whole, stage.name, attempt)
        }

    assert objects(1).isdisjoint(objects(2))


def test_objects_have_an_owner_on_a_cluster_only(job):
    owned = [each["metadata"].get("ownerReferences") for each in render_stage(job(*WHOLE), "train")]
    assert all(owners[0]["uid"].startswith("1b4e28ba") for owners in owned)
    assert all("ownerReferences" not in each["metadata"] for each in render_job(job()))


def test_nothing_owns_the_workspace(job):
    claim = find(render_job(job(*WHOLE)), "PersistentVolumeClaim")
    assert "ownerReferences" not in claim["metadata"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_trainers_are_packed_by_the_topology_label(job):
    packed = job("pods.topology=example.com/rack")
    (wish,) = pod_of(render_stage(packed, "train")[-1])["spec"]["affinity"]["podAffinity"].values()
    assert wish[0]["podAffinityTerm"]["topologyKey"] == "example.com/rack"
    assert "affinity" not in pod_of(render_stage(packed, "merge")[-1])["spec"]


def test_a_users_toleration_takes_the_place_of_ours(job):
    theirs = "{key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute}"
    pod = pod_of(render_stage(job(f"pods.tolerations=[{theirs}]"), "merge")[-1])["spec"]
    assert ["tolerationSeconds" in each for each in pod["tolerations"]] == [False, True]


@settings(deadline=None, max_examples=60)
@given(HOSTILE, HOSTILE)
def test_no_text_changes_the_shape_of_a_manifest(first, second):
    document = {
        "apiVersion": names.API_VERSION,
        "kind": names.JOB_KIND,
        "metadata": {"name": "hostile"},
        "spec": {
            "image": first,
            "workspace": {"claimName": second[:253]},
            "model": {"preset": "tiny"},
            "data": {
                "input": "a" + second.replace("..", "").replace(":", "").rstrip("/"),
                "jsonKey": first,
            },
            "train": {"steps": 1, "globalBatchSize": 1},
            "pods": {
                "env": [{"name": "A", "value": first}, {"name": "B", "value": second}],
                "annotations": {"a": second},
                "nodeSelector": {first: second},
            },
        },
    }
    job = parse_job(one_line(document))
    for stage in plan(job):
        config_map, *_, main = render_stage(job, stage.name)
        pod = pod_of(main)
        assert yaml.safe_load(config_map["data"]["config.yaml"]) == stage.config(1).dump()
        assert pod["spec"]["containers"][0]["image"] == first
        assert pod["spec"]["nodeSelector"] == {first: second}
        assert pod["metadata"]["annotations"]["a"] == second
        assert (environment_of(main)["A"], environment_of(main)["B"]) == (first, second)
        assert problems(render_stage(job, stage.name)) == []


def test_an_undefined_value_is_named():
    template = render._environment().from_string("{{ absent | to_yaml }}")
    with pytest.raises(jinja2.UndefinedError, match="'absent' is undefined"):
        template.render()


def test_every_value_in_a_template_goes_through_the_filter():
    for template in (ROOT / "k8s" / "templates").glob("*.j2"):
        for expression in re.findall(r"\{\{(.*?)\}\}", template.read_text(encoding="utf-8")):
            assert expression.strip().endswith("| to_yaml") or expression.strip() == "field"


def test_credentials_and_endpoint_reach_the_pods_that_need_them(job):
    access = "secretRef: {name: keys}, endpoint: 'https://minio:9000'"
    own = "pods={env: [{name: AWS_ENDPOINT_URL, value: 'http://mine'}]}"
    data = f"data={{input: 's3://b/*.txt', {access}}}"
    manifests = {stage: render_stage(job(data, own), stage) for stage in ("fetch", "preprocess")}
    fetch, preprocess = (find(each, "Job") for each in manifests.values())
    (container,) = pod_of(fetch)["spec"]["containers"]
    assert container["command"] == ["python", "-m", "pangu_core.entry.fetch"]
    assert container["envFrom"] == [{"secretRef": {"name": "keys"}}]
    assert environment_of(fetch)["AWS_ENDPOINT_URL"] == "https://minio:9000"
    assert environment_of(preprocess)["AWS_ENDPOINT_URL"] == "http://mine"
    assert problems(manifests["fetch"]) == []
