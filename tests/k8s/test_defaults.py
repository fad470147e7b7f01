import pytest

from k8s.defaults import read_pod_defaults, with_pod_defaults
from k8s.placement import PodSettings
from k8s.render import render_stage
from k8s.spec import parse_job
from pangu_core.errors import ConfigError

JOB = """
apiVersion: pangu-finetune.io/v1alpha1
kind: PanguJob
metadata: {name: novel}
spec:
  image: pangu-core:0.1.0
  workspace: {claimName: work}
  model: {preset: 350M}
  data: {input: "corpus/*.txt"}
  train: {steps: 10, globalBatchSize: 8}
"""
CLUSTER = PodSettings.model_validate(
    {
        "nodeSelector": {"pool": "gpu"},
        "schedulerName": "gangs",
        "volumes": [{"name": "certificates", "configMap": {"name": "authority"}}],
        "volumeMounts": [{"name": "certificates", "mountPath": "/certificates"}],
    }
)


def job(*overrides):
    return parse_job(JOB, overrides)


def test_the_clusters_pods_hold_where_a_job_says_nothing():
    spec = with_pod_defaults(job(), CLUSTER).spec
    assert spec.pods == CLUSTER


def test_a_job_goes_before_the_cluster_and_a_stage_before_both():
    own = job("pods={nodeSelector: {pool: big}}", "podsByStage.merge={schedulerName: plain}")
    spec = with_pod_defaults(own, CLUSTER).spec
    assert spec.pods_for("train").node_selector == {"pool": "big"}
    assert spec.pods_for("train").scheduler_name == "gangs"
    assert spec.pods_for("merge").scheduler_name == "plain"


def test_the_clusters_pods_reach_the_manifests():
    manifests = render_stage(with_pod_defaults(job(), CLUSTER), "preprocess")
    pod = manifests[-1]["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"pool": "gpu"}
    assert {"name": "certificates", "configMap": {"name": "authority"}} in pod["volumes"]


def test_volumes_of_a_jobs_own_must_not_take_away_what_the_cluster_mounts():
    own = job("pods.volumes=[{name: scratch, emptyDir: {}}]")
    with pytest.raises(ConfigError, match="certificates") as caught:
        with_pod_defaults(own, CLUSTER)
    assert caught.value.subject == "pods.volumeMounts"


def test_defaults_are_read_from_a_file_that_may_be_empty(tmp_path):
    path = tmp_path / "pods.yaml"
    path.write_text("")
    assert read_pod_defaults(path) == PodSettings()
    path.write_text("resources: {requests: {cpu: 4}}")
    assert read_pod_defaults(path).resources.requests == {"cpu": "4"}


def test_a_slip_in_the_file_is_named(tmp_path):
    path = tmp_path / "pods.yaml"
    path.write_text("nodeSelectr: {}")
    with pytest.raises(ConfigError, match="did you mean nodeSelector"):
        read_pod_defaults(path)
