import copy

import pytest

from k8s.check import pod_of, problems
from k8s.render import render_stage


def by_kind(manifests):
    return {manifest["kind"]: manifest for manifest in manifests}


def rename_the_config_map(manifests):
    manifests["ConfigMap"]["metadata"]["name"] = "other"


def point_the_service_elsewhere(manifests):
    manifests["Service"]["spec"]["selector"]["a"] = "b"


def change_the_services_port(manifests):
    manifests["Service"]["spec"]["ports"][0]["targetPort"] = "http"


def relabel_the_stores_pods(manifests):
    del pod_of(manifests["Deployment"])["metadata"]["labels"]["pangu-finetune.io/job"]


def container_of(manifests):
    return pod_of(manifests["PyTorchJob"])["spec"]["containers"][0]


def repeat_a_variable(manifests):
    container_of(manifests)["env"].append({"name": "PANGU_CONFIG", "value": "x"})


def mount_what_is_not_there(manifests):
    container_of(manifests)["volumeMounts"].append({"name": "ghost", "mountPath": "/ghost"})


def mount_twice_at_one_path(manifests):
    container_of(manifests)["volumeMounts"].append({"name": "tmp", "mountPath": "/workspace"})


def repeat_a_volume(manifests):
    pod_of(manifests["PyTorchJob"])["spec"]["volumes"].append({"name": "tmp", "emptyDir": {}})


def lengthen_a_name(manifests):
    manifests["PyTorchJob"]["metadata"]["name"] = "a" * 55


def use_capitals(manifests):
    manifests["ConfigMap"]["metadata"]["name"] = "Config"


def use_a_label_with_blanks(manifests):
    manifests["Service"]["metadata"]["labels"]["a"] = "b c"


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (rename_the_config_map, "config map small-train-1 is not among the manifests"),
        (point_the_service_elsewhere, "Service small-train-1-store: selects no pod"),
        (change_the_services_port, "its port http is no port of its pods"),
        (relabel_the_stores_pods, "its selector does not match its own pods"),
        (repeat_a_variable, "variable PANGU_CONFIG appears more than once"),
        (mount_what_is_not_there, "mounts volume ghost, which does not exist"),
        (mount_twice_at_one_path, "mount path /workspace appears more than once"),
        (repeat_a_volume, "volume tmp appears more than once"),
        (lengthen_a_name, "-worker-0 has more than 63 characters"),
        (use_capitals, "ConfigMap Config: is not a DNS name"),
        (use_a_label_with_blanks, "label a has the value 'b c'"),
    ],
)
def test_each_disagreement_is_found(job, damage, problem):
    manifests = copy.deepcopy(render_stage(job(), "train"))
    assert problems(manifests) == []
    damage(by_kind(manifests))
    assert any(problem in each for each in problems(manifests))


def test_the_same_object_twice_is_found(job):
    manifests = render_stage(job(), "merge")
    assert "object Job small-merge-1 appears more than once" in problems([*manifests, manifests[1]])
