from pathlib import Path
from typing import get_args

import pytest

from k8s import names
from k8s.blocks import ModelBlock
from k8s.spec import PanguService, parse, parse_job
from pangu_core.config.model import PRESETS
from pangu_core.errors import ConfigError
from pangu_core.loading import dump_yaml

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))


def refusal(job, *overrides):
    with pytest.raises(ConfigError) as caught:
        job(*overrides)
    return str(caught.value)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_valid(example):
    assert len(parse(example)) == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "train={steps: 1, globalBatchSize: 1, tensorParallel: 8, nodes: {processesPerNode: 8}}",
            "train.tensorParallel: 8: must divide the number of attention heads (4); "
            "choose one of [1, 2, 4]",
        ),
        (
            "train.sequenceLength=512",
            "train.sequenceLength: 512: must not exceed the position table (256 rows); "
            "use at most 256, or a model with a longer table",
        ),
        (
            "train={steps: 1, globalBatchSize: 1, tensorParallel: 4, nodes: {max: 6}}",
            "train.nodes.min: 1: 1 x 1 processes must form whole groups of 4 ranks; "
            "use a multiple of 4 nodes",
        ),
        (
            "train.nodes.min=2",
            "train.nodes.min: 2: must not exceed train.nodes.max (1); lower min or raise max",
        ),
        (
            "train={steps: 1, globalBatchSize: 1, tensorParallel: 2, nodes: {processesPerNode: 3}}",
            "train.tensorParallel: 2: must divide nodes.processesPerNode (3) or be a multiple of "
            "it; choose one of [1, 3] or a multiple of 3",
        ),
        (
            "train.stpes=3",
            "train.stpes: 3: is not a known key; did you mean steps?",
        ),
        (
            "train.microBatchSize=0",
            "train.microBatchSize: 0: input should be greater than or equal to 1; change the value",
        ),
        (
            "train.optimizer.learningrate=1",
            "train.optimizer.learningrate: 1: is not a known key; did you mean learningRate?",
        ),
        ("image=null", "image: None: input should be a valid string; change the value"),
        (
            "data.split=half",
            "data.split: half: must be one to three numbers, none negative, not all zero; "
            'write for example "949,50,1"',
        ),
        (
            "data.input=/etc/passwd",
            "data.input: /etc/passwd: must be relative to the workspace and stay inside it; "
            "copy the data into the workspace and name it from there",
        ),
        (
            "tokenizer=../other/vocab.model",
            "tokenizer: ../other/vocab.model: must be relative to the workspace and stay inside "
            "it; copy the data into the workspace and name it from there",
        ),
        (
            "model.from=ftp://host/weights",
            "model.from: ftp://host/weights: must be a path in the workspace, or start with "
            "https://, s3:// or pvc://; copy the data into the workspace and name it from there",
        ),
        (
            "split.always=true",
            "split.always: true: splits the weights that training starts from, and model.from "
            "names none; add model.from, or remove split",
        ),
        (
            "pods.volumeMounts=[{name: data, mountPath: /data}]",
            "pods.volumeMounts: data: must name one of the volumes of stage fetch; "
            "add the volume, or mend the name",
        ),
    ],
)
def test_a_wrong_value_is_refused_in_four_parts(job, override, message):
    assert refusal(job, override) == message


@pytest.mark.parametrize(
    ("model", "rule"),
    [
        ("{}", "says nothing about the network"),
        ("{preset: tiny, numLayers: 3}", "must not have both a preset and sizes"),
        ("{numLayers: 3}", "needs numLayers, hiddenSize and numHeads together"),
        ("{numLayers: 3, hiddenSize: 8, numHeads: 3}", "must divide model.hiddenSize (8)"),
        ("{preset: 7B}", "input should be 'tiny', '350M', '2.6B' or '13B'"),
    ],
)
def test_the_model_is_a_preset_or_sizes_or_comes_from_weights(job, model, rule):
    assert rule in refusal(job, f"model={model}")


def test_presets_in_the_form_are_those_of_the_table():
    (literal, _) = get_args(ModelBlock.model_fields["preset"].annotation)
    assert get_args(literal) == tuple(PRESETS)


def test_a_preset_takes_another_activation(job):
    sizes = job("model.activation=gelu_erf").spec.model.sizes
    assert sizes == PRESETS["tiny"].model_copy(update={"activation": "gelu_erf"})


def test_weights_alone_leave_the_sizes_open(job):
    assert job("model={from: weights/old}").spec.model.sizes is None


@pytest.mark.parametrize(
    ("workspace", "rule"),
    [
        ("{}", "must have exactly one of claimName, size"),
        ("{claimName: a, size: 1Gi}", "must have exactly one of claimName, size"),
        ("{claimName: a, accessMode: ReadWriteOnce}", "are for a claim to make"),
        ("{size: 1Gi, accessMode: ReadWriteOncePod}", "must let more than one pod use the volume"),
        ("{size: plenty}", "workspace.size: plenty"),
    ],
)
def test_a_workspace_is_named_or_made(job, workspace, rule):
    assert rule in refusal(job, f"workspace={workspace}")


def test_a_volume_for_one_node_is_refused_for_several(job):
    once = "workspace={size: 1Gi, accessMode: ReadWriteOnce}"
    assert job(once).spec.workspace.access_mode == "ReadWriteOnce"
    assert "more than one pod uses the volume" in refusal(job, once, "train.nodes.max=2")
    pinned = "pods.nodeSelector={kubernetes.io/hostname: node-7}"
    assert job(once, "train.nodes.max=2", pinned).spec.train.nodes.max == 2


@pytest.mark.parametrize("name", ["Small", "7b", "a_b", "a.b", "-a", "a-", "", "中文"])
def test_a_name_that_is_no_dns_label_is_refused(job, name):
    assert "must be lower-case letters" in refusal(job, f"metadata.name='{name}'")


def test_the_longest_name_leaves_room_for_its_pods(job):
    longest = "a" * names.JOB_NAME_LIMIT
    worker = names.worker(job(f"metadata.name={longest}").name, 9999, 9999)
    assert len(worker) == names.NAME_LIMIT
    assert "at most 40 characters" in refusal(job, f"metadata.name={longest}a")


def test_what_an_api_server_adds_is_tolerated(document):
    document["metadata"] |= {"uid": "u-1", "generation": 3, "resourceVersion": "7"}
    document["metadata"] |= {"creationTimestamp": "2026-01-01T00:00:00Z", "managedFields": [{}]}
    document["status"] = {"phase": "Running"}
    assert parse_job(dump_yaml(document)).uid == "u-1"


def test_off_a_cluster_the_uid_follows_from_the_name(job):
    assert job().uid == job("train.steps=99").uid
    assert job().uid != job("metadata.name=other").uid
    assert job().uid != job("metadata.namespace=other").uid


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "PanguJobs"}, "kind: PanguJobs: must be PanguJob or PanguService; did you mean"),
        ({"apiVersion": "v1"}, "apiVersion: v1: must be pangu-finetune.io/v1alpha1"),
        ({"kind": None}, "kind: nothing: must be PanguJob or PanguService"),
        ({"spek": {}}, "spek: {}: is not a known key; did you mean spec?"),
        ({"metadata": None}, "metadata.name: nothing: is required; add it"),
        ({"metadata": {"name": "a", "labelz": {}}}, "metadata.labelz: {}: is not a known key"),
        ({"spec": None}, "image: nothing: is required; add it"),
    ],
)
def test_a_wrong_frame_is_refused(document, change, message):
    with pytest.raises(ConfigError) as caught:
        parse(dump_yaml(document | change))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("text", ["", "---\n", "- a list", "just text", "a: [", "\t"])
def test_text_that_holds_no_object_is_refused(text):
    with pytest.raises(ConfigError):
        parse(text)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        parse(tmp_path / "job.yaml")


def test_overrides_go_to_the_first_object(document):
    text = dump_yaml(document) + "---\n" + dump_yaml(document | {"metadata": {"name": "second"}})
    first, second = parse(text, ["train.steps=3"])
    assert (first.spec.train.steps, second.spec.train.steps) == (3, 10)
    with pytest.raises(ConfigError, match="exactly one PanguJob"):
        parse_job(text)


def test_a_service_names_an_existing_claim(document):
    document["kind"] = "PanguService"
    document["spec"] = {"image": "i", "model": "runs/a/model", "workspace": {"claimName": "w"}}
    (service,) = parse(dump_yaml(document))
    assert isinstance(service, PanguService)
    with pytest.raises(ConfigError, match="must name an existing claim"):
        parse(dump_yaml(document), ["workspace={size: 1Gi}"])
