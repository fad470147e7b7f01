import pytest

from pangu_core.errors import ConfigError

GPU = "nvidia.com/gpu"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("env=[{name: PET_NNODES, value: '2'}]", "env.0.name: PET_NNODES: is set by us"),
        ("env=[{name: PANGU_CONFIG, value: x}]", "env.0.name: PANGU_CONFIG: is set by us"),
        ("env=[{name: HOME, value: /}]", "env.0.name: HOME: is set by us"),
        ("env=[{name: A}]", "must have exactly one of value, valueFrom"),
        ("env=[{name: 'A B', value: x}]", "string should match pattern"),
        ("labels={pangu-finetune.io/job: x}", "pangu-finetune.io/job is set by us"),
        ("labels={training.kubeflow.org/job-name: x}", "is set by us"),
        ("labels={app.kubernetes.io/name: x}", "app.kubernetes.io/name is set by us"),
        ("labels={a: 'b c'}", "string should match pattern"),
        ("volumes=[{name: workspace, emptyDir: {}}]", "is the name of a volume of ours"),
        ("volumes=[{name: a, hostPath: {path: /}}]", "volumes.0.hostPath: {'path': '/'}: is not a"),
        ("volumes=[{name: a}]", "must have exactly one of configMap, secret, persistentVolumeCl"),
        ("volumeMounts=[{name: a, mountPath: /workspace}]", "must be an absolute path that we do"),
        ("volumeMounts=[{name: a, mountPath: /}]", "must be an absolute path that we do not use"),
        ("resources={limits: {cpu: lots}}", "resources.limits.cpu: lots"),
        ("gracePeriod=3", "gracePeriod: 3: input should be greater than or equal to 10"),
        ("containers=[]", "pods.containers: []: is not a known key"),
    ],
)
def test_what_would_clash_with_ours_is_refused(job, override, message):
    with pytest.raises(ConfigError) as caught:
        job(f"pods.{override}")
    assert message in str(caught.value)


def test_only_training_asks_for_gpus(job):
    spec = job("train.nodes.processesPerNode=4").spec
    assert spec.pods_for("train").resources.limits == {GPU: "4"}
    assert spec.pods_for("preprocess").resources.dump() == {"requests": {}, "limits": {}}


def test_empty_resources_ask_for_no_gpu(job):
    resources = job("pods.resources={}").spec.pods_for("train").resources
    assert resources.dump() == {"requests": {}, "limits": {}}


def test_other_stages_take_the_cpus_and_not_the_devices(job):
    spec = job("pods.resources={requests: {cpu: 4, nvidia.com/mig-1g.10gb: 1, rdma/hca: 1}}").spec
    assert spec.pods_for("train").resources.requests["rdma/hca"] == "1"
    assert spec.pods_for("merge").resources.requests == {"cpu": "4"}


def test_a_stage_replaces_whole_fields(job):
    spec = job(
        "pods={nodeSelector: {a: b}, resources: {requests: {cpu: 4}}, gracePeriod: 60}",
        "podsByStage.merge={nodeSelector: {c: d}, resources: {requests: {memory: 1Gi}}}",
    ).spec
    merge = spec.pods_for("merge")
    assert (merge.node_selector, merge.grace_period) == ({"c": "d"}, 60)
    assert merge.resources.requests == {"memory": "1Gi"}
    assert spec.pods_for("train").node_selector == {"a": "b"}
