import json

import pytest

from controller.cluster.api import ApiError
from controller.doctor.command import line
from controller.doctor.finding import Finding, examined
from controller.doctor.platform import api_server, controller, definitions, our_definitions
from controller.doctor.resources import claims, gpus, storage
from controller.doctor.rights import rights
from controller.doctor.training import kueue, training_operator

DEPLOYMENTS = "/apis/apps/v1/deployments"
KUEUE = "/api/v1/namespaces/kueue-system/configmaps/kueue-manager-config"
OPENAPI = "/openapi/v3/apis/pangu-finetune.io/v1alpha1"


class Server:
    """Answers by path; a number is a refusal."""

    namespace = "research"

    def __init__(self, answers, allowed=lambda attributes: True):
        self.answers, self.allowed = answers, allowed

    def request(self, method, path, query=None, body=None):
        if method == "POST":
            return {"status": {"allowed": self.allowed(body["spec"]["resourceAttributes"])}}
        answer = self.answers.get(path, 404)
        if isinstance(answer, int):
            raise ApiError(answer, "", f"{path}: {answer}")
        return answer


def look(check, answers, **more):
    return list(check(Server(answers, **more)))


def states(check, answers, **more):
    return [finding.state for finding in look(check, answers, **more)]


@pytest.mark.parametrize(
    ("minor", "state"), [("34", "good"), ("31+", "good"), ("30", "bad"), ("9", "bad")]
)
def test_the_api_server_must_be_new_enough(minor, state):
    answer = {"major": "1", "minor": minor, "gitVersion": f"v1.{minor}.0"}
    assert states(api_server, {"/version": answer}) == [state]


def served(change=lambda spec: None):
    """What the API server publishes of our definitions."""
    schemas = {}
    for each in our_definitions():
        schema = each["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        kind = each["spec"]["names"]["kind"]
        schema["x-kubernetes-group-version-kind"] = [{"kind": kind}]
        change(schema["properties"]["spec"]["properties"])
        schemas[kind] = schema
    return {OPENAPI: {"components": {"schemas": schemas}}}


def test_definitions_of_this_version_are_good_and_their_absence_is_not():
    assert states(definitions, served()) == ["good", "good"]
    assert states(definitions, {}) == ["bad", "bad"]


def test_a_definition_of_another_version_is_named_with_a_field():
    older = look(definitions, served(lambda spec: spec.pop("image")))
    assert [f.seen for f in older] == ["of another version: lacks spec.image"] * 2
    assert "helm upgrade" in older[0].fix
    newer = look(definitions, served(lambda spec: spec.update(later={"type": "string"})))
    assert newer[0].seen == "newer than this command: has spec.later"


def deployed(image="training-operator:v1.9.4", args=(), namespace="kubeflow", **status):
    container = {"image": image, "command": ["/manager"], "args": list(args)}
    return {
        "metadata": {"name": "training-operator", "namespace": namespace},
        "spec": {"template": {"spec": {"containers": [container]}}},
        "status": {"availableReplicas": 1, "readyReplicas": 1, **status},
    }


@pytest.mark.parametrize(
    ("deployment", "state", "words"),
    [
        (deployed(args=["--leader-elect"]), "good", "training-operator:v1.9.4 --leader-elect"),
        (deployed(args=["--enable-scheme=tfjob"]), "bad", "PyTorchJobs are left out"),
        (deployed(args=["-enable-scheme=PyTorchJob"]), "good", "--enable-scheme=pytorchjob"),
        (deployed(args=["--namespace=other"]), "bad", "works elsewhere"),
        (deployed(availableReplicas=0), "bad", "no replica runs"),
    ],
)
def test_the_training_operators_version_and_flags_are_looked_at(deployment, state, words):
    kinds = {"resources": [{"name": "pytorchjobs"}]}
    answers = {"/apis/kubeflow.org/v1": kinds, DEPLOYMENTS: {"items": [deployment]}}
    [finding] = look(training_operator, answers)
    assert (finding.state, words in finding.seen) == (state, True)
    assert states(training_operator, {}) == ["bad"]


def test_a_namespace_that_nobody_watches_is_found():
    nobody = {DEPLOYMENTS: {"items": []}}
    assert look(controller, nobody)[0].fix.startswith("helm install")
    everywhere = {DEPLOYMENTS: {"items": [deployed(args=["--all-namespaces"])]}}
    assert states(controller, everywhere) == ["good"]
    mark = {"/api/v1/namespaces/research/configmaps/pangu-watched-by-name": {}}
    assert states(controller, mark) == ["good"]
    own = {
        "/apis/apps/v1/namespaces/research/deployments/pangu-controller": deployed(readyReplicas=0)
    }
    assert states(controller, own) == ["bad"]


def test_rights_that_are_lacking_are_named_with_the_command_that_gives_them():
    assert states(rights, {}) == ["good"]
    lacking = look(rights, {}, allowed=lambda a: a["resource"] != "pods")
    assert [f.state for f in lacking] == ["bad", "bad", "note", "note"]
    assert "may not get pods/log" in lacking[1].seen
    assert "--clusterrole edit" in lacking[1].fix


@pytest.mark.parametrize(
    ("classes", "state", "words"),
    [
        ([("fast", "ebs.csi.aws.com"), ("files", "efs.csi.aws.com")], "good", "by files"),
        ([("fast", "ebs.csi.aws.com")], "note", "none known for ReadWriteMany: fast"),
        ([], "note", "workspace.size cannot be served"),
    ],
)
def test_storage_for_many_nodes_is_looked_for(classes, state, words):
    items = [{"metadata": {"name": name}, "provisioner": by} for name, by in classes]
    [finding] = look(storage, {"/apis/storage.k8s.io/v1/storageclasses": {"items": items}})
    assert (finding.state, words in finding.seen) == (state, True)


def test_claims_are_listed_with_their_access_modes():
    made = [
        {"metadata": {"name": "a"}, "spec": {"accessModes": [mode]}, "status": {"phase": phase}}
        for mode, phase in (
            ("ReadWriteMany", "Bound"), ("ReadWriteOncePod", "Bound"), ("ReadWriteOnce", "Lost"),
        )
    ]  # fmt: skip
    path = "/api/v1/namespaces/research/persistentvolumeclaims"
    assert states(claims, {path: {"items": made}}) == ["good", "note", "bad"]


def test_gpus_are_counted():
    nodes = [
        {"metadata": {"name": n}, "status": {"allocatable": {"nvidia.com/gpu": c}}}
        for n, c in (("a", "8"), ("b", "0"), ("c", "1k"))
    ]
    [finding] = look(gpus, {"/api/v1/nodes": {"items": nodes}})
    assert finding.seen == "1008 nvidia.com/gpu on 2 of 3 nodes"
    assert states(gpus, {"/api/v1/nodes": {"items": []}}) == ["note"]


@pytest.mark.parametrize(
    ("frameworks", "state"), [(["batch/job"], "bad"), (["kubeflow.org/pytorchjob"], "good")]
)
def test_kueue_must_be_told_of_pytorchjobs(frameworks, state):
    text = json.dumps({"integrations": {"frameworks": frameworks}})
    config = {"data": {"controller_manager_config.yaml": text}}
    assert states(kueue, {"/apis/kueue.x-k8s.io": {}, KUEUE: config}) == [state]
    assert states(kueue, {}) == ["note"]


def test_what_may_not_be_looked_at_is_a_note_and_the_rest_goes_on():
    answers = {"/api/v1/nodes": 403}
    found = list(examined(Server(answers), {"GPU nodes": gpus, "Kueue": kueue}))
    assert [(f.subject, f.state) for f in found] == [("GPU nodes", "note"), ("Kueue", "note")]
    with pytest.raises(ApiError):
        list(examined(Server({"/api/v1/nodes": 500}), {"GPU nodes": gpus}))


def test_a_finding_is_one_line():
    finding = Finding("GPU nodes", "bad", "none", "install a plugin")
    assert line(finding) == "bad: GPU nodes: none; install a plugin"
