"""The CRDs on a real API server: applied as they are, filling in, refusing, and showing."""

import copy
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from kubernetes.client import ApiException

from k8s import names
from k8s.spec import JobSpec, parse
from k8s.status import (
    Attempt,
    Condition,
    JobStatus,
    PastAttempt,
    PodExit,
    ProgressStatus,
    StageStatus,
    Summary,
    from_dict,
    to_dict,
)
from pangu_core.errors import ConfigError
from pangu_core.loading import load
from tests.cluster.access import MERGE_PATCH, Cluster, eventually
from tests.k8s.candidates import GOOD, Spec, specs

pytestmark = pytest.mark.cluster

CHECKOUT = Path(__file__).parents[2]
EXAMPLES = sorted((CHECKOUT / "examples").glob("*.yaml"))
BAD_OBJECTS = sorted((CHECKOUT / "tests/k8s/bad_objects").glob("*.yaml"))
SERVICE = {
    "image": "pangu-core:0.1.0",
    "workspace": {"claimName": "work"},
    "model": "runs/novel/model",
}
STATUS = JobStatus(
    phase="Running",
    observed_generation=2,
    conditions=(Condition("Running", "True", "PodsRunning", "stage train", 1_000, 2),),
    stages=(
        StageStatus("convert", "Succeeded", 1, "ab", 900, 950, "runs/a/converted", "cd"),
        StageStatus("train", "Running", 2, "ef", 950),
    ),
    attempt=Attempt(
        "train", 2, 960, seen=True, short_since=961, exits=(PodExit("0", 143, 7, ("u-1",)),)
    ),
    history=(PastAttempt("train", 1, "Failed", "DataError", True, 950, 955, 3, "bad", 1, 7),),
    charges=(955,),
    restarts={"DataError": 1},
    retry_at=960,
    progress=ProgressStatus("step", 340, 1_000, 1_010, 3.25, 3.5, 8_000.5, 660),
    summary=Summary("2/4", "34%", "3.25", "1/5"),
    started_at=900,
    completed_at=1_100,
    exit_code=0,
)


@pytest.fixture(scope="module", autouse=True)
def crds(cluster: Cluster) -> None:
    """Both kinds, installed as the handbook says; they stay, as they do in life."""
    cluster.kubectl("apply", "-f", str(CHECKOUT / "k8s/crds"))
    for plural in ("pangujobs", "panguservices"):
        name = f"crd/{plural}.{names.GROUP}"
        cluster.kubectl("wait", "--for=condition=Established", name, "--timeout=30s")
        path = f"/apis/{names.API_VERSION}/{plural}"
        eventually(lambda path=path: cluster.open("GET", path).status == 200)


@pytest.fixture(scope="module")
def dry_namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace in which nothing is stored."""
    with cluster.namespace() as name:
        yield name


def path_of(kind: str, namespace: str, name: str = "", part: str = "") -> str:
    path = f"/apis/{names.API_VERSION}/namespaces/{namespace}/{kind.lower()}s"
    return "/".join(each for each in (path, name, part) if each)


def an_object(spec: Spec, kind: str = "PanguJob", name: str = "one") -> dict[str, Any]:
    return {
        "apiVersion": names.API_VERSION,
        "kind": kind,
        "metadata": {"name": name},
        "spec": copy.deepcopy(spec),
    }


def tried(cluster: Cluster, namespace: str, document: dict[str, Any]) -> dict[str, Any]:
    """The object as it would be stored, strictly checked as kubectl has it done."""
    path = path_of(document["kind"], namespace)
    answer: dict[str, Any] = cluster.request(
        "POST", f"{path}?dryRun=All&fieldValidation=Strict", document
    )
    return answer


def refusal(cluster: Cluster, namespace: str, document: dict[str, Any]) -> str | None:
    try:
        tried(cluster, namespace, document)
    except ApiException as error:
        if error.status not in (400, 422):
            raise
        return str(json.loads(error.reason)["message"])
    return None


def problem(spec: Spec) -> ConfigError | None:
    try:
        load(JobSpec, spec)
    except ConfigError as error:
        return error
    return None


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_taken_and_still_means_the_same(
    cluster: Cluster, dry_namespace: str, example: Path
) -> None:
    for document, ours in zip(
        yaml.safe_load_all(example.read_text("utf-8")), parse(example), strict=True
    ):
        document["metadata"].pop("namespace", None)
        stored = tried(cluster, dry_namespace, document)
        assert load(type(ours.spec), stored["spec"]) == ours.spec


def test_defaults_are_visible_and_pods_say_only_what_the_user_said(
    cluster: Cluster, dry_namespace: str
) -> None:
    spec = GOOD | {"podsByStage": {"merge": {"gracePeriod": 60}}}
    stored = tried(cluster, dry_namespace, an_object(spec))["spec"]
    assert stored["train"]["nodes"] == {"min": 1, "max": 1, "processesPerNode": 1}
    assert stored["train"]["optimizer"]["epsilon"] == 1e-8
    assert stored["data"]["split"] == "949,50,1"
    assert stored["podsByStage"] == {"merge": {"gracePeriod": 60}}
    assert stored["pods"] == {}
    assert stored["workspace"] == GOOD["workspace"]


@pytest.mark.parametrize("path", BAD_OBJECTS, ids=lambda path: path.stem)
def test_a_bad_object_is_refused_in_the_words_of_its_first_lines(
    cluster: Cluster, dry_namespace: str, path: Path
) -> None:
    text = path.read_text("utf-8")
    expected = re.search(r"# Refused(?: by the API server)?: (.+)\n", text)
    said = refusal(cluster, dry_namespace, yaml.safe_load(text))
    if expected is None:  # data.input may be text or a list: no rule can see it
        assert (said, "data: " in text) == (None, True)
    else:
        assert said is not None
        assert expected[1] in said


def test_kubectl_shows_the_words(cluster: Cluster, namespace: str) -> None:
    path = CHECKOUT / "tests/k8s/bad_objects/nodes-min-above-max.yaml"
    with pytest.raises(RuntimeError, match=r"must not exceed train.nodes.max \(2\); lower min"):
        cluster.kubectl("apply", "--namespace", namespace, "-f", str(path))


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
)
@given(spec=specs())
def test_the_api_server_and_we_accept_the_same(
    cluster: Cluster, dry_namespace: str, spec: Spec
) -> None:
    ours = problem(spec)
    # Text or a list: no rule can see it.
    assume(ours is None or not ours.subject.startswith("data.input"))
    theirs = refusal(cluster, dry_namespace, an_object(spec))
    assert (ours is None) == (theirs is None), f"{ours} | {theirs}"


CHANGES: list[tuple[Spec, bool]] = [
    ({"suspend": True}, True),
    ({"image": "pangu-core:0.1.1"}, True),
    ({"train": {"nodes": {"min": 2, "max": 8}}}, True),
    ({"train": {"checkpoint": {"everySteps": 7}}}, True),
    ({"train": {"restarts": {"limit": 7}}}, True),
    ({"limits": {"pendingSeconds": 60}}, True),
    ({"ttlSecondsAfterFinished": 60}, True),
    ({"pods": {"nodeSelector": {"a": "b"}}}, True),
    ({"podsByStage": {"train": {"gracePeriod": 60}}}, True),
    ({"serve": {"replicas": 2}}, True),
    ({"model": {"preset": "2.6B"}}, False),
    ({"model": {"endpoint": "http://minio"}}, False),
    ({"data": {"input": "other/*.txt"}}, False),
    ({"data": {"input": [{"path": "corpus/*.txt"}]}}, False),
    ({"tokenizer": "vocab.model"}, False),
    ({"workspace": {"claimName": "other"}}, False),
    ({"train": {"steps": 11}}, False),
    ({"train": {"seed": 1}}, False),
    ({"train": {"globalBatchSize": 16}}, False),
    ({"train": {"microBatchSize": 2}}, False),
    ({"train": {"tensorParallel": 2, "nodes": {"processesPerNode": 2}}}, False),
    ({"train": {"sequenceLength": 64}}, False),
    ({"train": {"optimizer": {"learningRate": 0.1}}}, False),
    ({"export": {"format": "npy"}}, False),
    ({"resumeFrom": "other"}, False),
    ({"queue": {"name": "gpus"}}, False),
]


@pytest.mark.parametrize(("change", "may"), CHANGES, ids=lambda value: json.dumps(value))
def test_what_a_run_follows_from_stays(
    cluster: Cluster, namespace: str, change: Spec, may: bool
) -> None:
    cluster.request("POST", path_of("PanguJob", namespace), an_object(GOOD))
    path = f"{path_of('PanguJob', namespace, 'one')}?fieldValidation=Strict"
    if may:
        cluster.request("PATCH", path, {"spec": change}, kind=MERGE_PATCH)
        return
    with pytest.raises(ApiException, match="Forbidden: cannot change while the job exists"):
        cluster.request("PATCH", path, {"spec": change}, kind=MERGE_PATCH)


def test_an_optional_field_that_was_set_cannot_go(cluster: Cluster, namespace: str) -> None:
    spec = GOOD | {"tokenizer": "vocab.model"}
    cluster.request("POST", path_of("PanguJob", namespace), an_object(spec))
    with pytest.raises(ApiException, match=r"spec\.tokenizer: Forbidden"):
        cluster.request(
            "PATCH",
            path_of("PanguJob", namespace, "one"),
            {"spec": {"tokenizer": None}},
            kind=MERGE_PATCH,
        )


def test_a_service_changes_in_everything(cluster: Cluster, namespace: str) -> None:
    cluster.request("POST", path_of("PanguService", namespace), an_object(SERVICE, "PanguService"))
    change = {"model": "runs/b/model", "workspace": {"claimName": "b"}, "precision": "fp32"}
    answer = cluster.request(
        "PATCH",
        path_of("PanguService", namespace, "one"),
        {"spec": change},
        kind=MERGE_PATCH,
    )
    assert answer["spec"]["model"] == "runs/b/model"


def test_a_whole_status_is_kept_as_it_is(cluster: Cluster, namespace: str) -> None:
    path = path_of("PanguJob", namespace, "one")
    created = cluster.request("POST", path_of("PanguJob", namespace), an_object(GOOD))
    created["status"] = to_dict(STATUS)
    assert "status" not in cluster.request("PUT", path, created)
    stored = cluster.request("PUT", f"{path}/status?fieldValidation=Strict", created)
    assert stored["status"] == created["status"]
    assert from_dict(stored["status"]) == STATUS
    assert stored["metadata"]["generation"] == 1


def test_a_loss_that_is_no_number_is_left_out(cluster: Cluster, namespace: str) -> None:
    created = cluster.request("POST", path_of("PanguJob", namespace), an_object(GOOD))
    progress = ProgressStatus("step", 340, 1_000, 1_010, loss=float("nan"))
    created["status"] = to_dict(replace(STATUS, progress=progress))
    stored = cluster.request("PUT", path_of("PanguJob", namespace, "one", "status"), created)
    assert stored["status"]["progress"]["step"] == 340
    assert "loss" not in stored["status"]["progress"]


def test_a_status_with_a_wrong_phase_is_refused(cluster: Cluster, namespace: str) -> None:
    created = cluster.request("POST", path_of("PanguJob", namespace), an_object(GOOD))
    created["status"] = to_dict(STATUS) | {"phase": "Dancing"}
    with pytest.raises(ApiException, match="Unsupported value"):
        cluster.request("PUT", path_of("PanguJob", namespace, "one", "status"), created)


def test_a_line_shows_where_a_job_is(cluster: Cluster, namespace: str) -> None:
    created = cluster.request("POST", path_of("PanguJob", namespace), an_object(GOOD))
    created["status"] = to_dict(replace(STATUS, completed_at=None))
    cluster.request("PUT", path_of("PanguJob", namespace, "one", "status"), created)
    head, line = cluster.kubectl("get", "pj", "--namespace", namespace).splitlines()
    assert head.split() == [
        "NAME",
        "PHASE",
        "NODES",
        "TP",
        "STEP",
        "PROGRESS",
        "LOSS",
        "RESTARTS",
        "AGE",
    ]
    assert line.split()[:-1] == ["one", "Running", "2/4", "1", "340", "34%", "3.25", "1/5"]
    head, line = cluster.kubectl("get", "pangu", "-o", "wide", "-n", namespace).splitlines()
    assert head.split()[9:] == ["STAGE", "TOKENS/S", "SECONDS-LEFT", "QUEUE"]


def test_a_service_can_be_scaled(cluster: Cluster, namespace: str) -> None:
    path = path_of("PanguService", namespace, "one")
    cluster.request("POST", path_of("PanguService", namespace), an_object(SERVICE, "PanguService"))
    cluster.kubectl("scale", "ps", "one", "--replicas=3", "--namespace", namespace)
    assert cluster.request("GET", path)["spec"]["replicas"] == 3
    status = {"replicas": 2, "readyReplicas": 1, "selector": "app=one", "observedGeneration": 2}
    cluster.request("PATCH", f"{path}/status", {"status": status}, kind=MERGE_PATCH)
    scale = cluster.request("GET", f"{path}/scale")
    assert scale["status"] == {"replicas": 2, "selector": "app=one"}
    head, line = cluster.kubectl("get", "ps", "--namespace", namespace).splitlines()
    assert head.split() == ["NAME", "AVAILABLE", "READY", "REPLICAS", "TP", "MODEL", "AGE"]
    assert line.split()[:-1] == ["one", "1", "3", "1", "runs/novel/model"]


def test_a_job_cannot_be_scaled_by_replicas(cluster: Cluster, namespace: str) -> None:
    cluster.request("POST", path_of("PanguJob", namespace), an_object(GOOD))
    with pytest.raises(ApiException, match="404"):
        cluster.request("GET", path_of("PanguJob", namespace, "one", "scale"))


def test_every_field_is_explained(cluster: Cluster) -> None:
    said = cluster.kubectl("explain", "pj.spec.train.nodes")
    assert "Most pods the job may run with." in said
