"""A PanguService becomes objects that Kubernetes takes, and that lose no request."""

import kubernetes_validate
import pytest
import yaml

from k8s import names
from k8s.check import pod_of, problems
from k8s.defaults import with_service_defaults
from k8s.placement import PodSettings
from k8s.render import render_service
from k8s.serving import manifest_of, serve_config, service_of
from k8s.spec import ServiceSpec, parse
from pangu_core.config.stages import ServeConfig
from pangu_core.errors import ConfigError
from pangu_core.loading import dump_yaml, load

SERVICE = {
    "apiVersion": names.API_VERSION,
    "kind": names.SERVICE_KIND,
    "metadata": {"name": "novel"},
    "spec": {
        "image": "pangu-core:test",
        "workspace": {"claimName": "work"},
        "model": "runs/novel/model",
    },
}
OLDEST_KUBERNETES = "1.31"
WHOLE = (
    "metadata.uid=1b4e28ba-2fa1-11d2-883f-0016d3cca427",
    "metadata.namespace=research",
    "tokenizer=vocab/own.model",
    "apiKeys.secretName=keys",
    "autoscale={max: 3, cpuPercent: 70}",
    "pods={labels: {team: a}, affinity: {nodeAffinity: {}}, env: [{name: A, value: b}], "
    "volumes: [{name: e, emptyDir: {}}], volumeMounts: [{name: e, mountPath: /e}], "
    "imagePullPolicy: Always, envFrom: [{secretRef: {name: proxy}}]}",
)


def service(*overrides):
    (found,) = parse(dump_yaml(SERVICE), overrides)
    return found


def rendered(*overrides):
    return {each["kind"]: each for each in render_service(service(*overrides))}


def deployment(*overrides):
    return rendered(*overrides)["Deployment"]["spec"]


def container(*overrides):
    return deployment(*overrides)["template"]["spec"]["containers"][0]


@pytest.mark.parametrize("overrides", [(), WHOLE], ids=["small", "whole"])
def test_every_object_fits_its_schema_and_they_agree(overrides):
    manifests = render_service(service(*overrides))
    for manifest in manifests:
        kubernetes_validate.validate(manifest, OLDEST_KUBERNETES, strict=True)
    assert problems(manifests) == []


def test_a_new_pod_answers_before_an_old_one_goes_and_that_one_finishes():
    spec = deployment("answerSeconds=900")
    pod = spec["template"]["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert pod["terminationGracePeriodSeconds"] > 900
    (grace,) = [
        e["value"] for e in pod["containers"][0]["env"] if e["name"] == names.GRACE_VARIABLE
    ]
    assert grace == str(pod["terminationGracePeriodSeconds"])
    assert "preStop" not in str(pod)


def test_a_grace_period_of_the_pods_own_is_a_lower_bound():
    pod = deployment("answerSeconds=60", "pods.gracePeriod=3600")["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 3600


def test_a_pod_is_ready_when_it_answers_and_has_long_to_begin():
    probes = container()
    assert probes["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
    assert probes["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "http"}
    start = probes["startupProbe"]
    seconds = start["periodSeconds"] * start["failureThreshold"]
    assert seconds >= 1_800
    assert deployment()["progressDeadlineSeconds"] > seconds


def test_pods_meet_the_restricted_standard_and_cannot_write_the_workspace():
    pod = deployment(*WHOLE)["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container()["securityContext"]["readOnlyRootFilesystem"] is True
    (mount,) = [m for m in container()["volumeMounts"] if m["name"] == "workspace"]
    assert mount["readOnly"] is True


def test_the_config_is_what_the_pods_read_and_another_one_rolls_them():
    config_map = rendered(*WHOLE)["ConfigMap"]
    text = config_map["data"]["config.yaml"]
    assert load(ServeConfig, yaml.safe_load(text)) == serve_config(service(*WHOLE))
    (volume,) = [
        v for v in deployment(*WHOLE)["template"]["spec"]["volumes"] if v["name"] == "config"
    ]
    assert volume["configMap"]["name"] == config_map["metadata"]["name"]
    other = rendered(*WHOLE, "model=runs/other/model")
    assert other["ConfigMap"]["metadata"]["name"] != config_map["metadata"]["name"]
    assert other["Deployment"]["spec"]["template"] != deployment(*WHOLE)["template"]


def test_the_number_of_pods_alone_rolls_nothing():
    assert deployment("replicas=3")["template"] == deployment()["template"]


def test_keys_come_from_the_secret_as_files():
    (variable,) = [e for e in container(*WHOLE)["env"] if e["name"] == "PANGU_API_KEYS_FILE"]
    (mount,) = [m for m in container(*WHOLE)["volumeMounts"] if m["name"] == "api-keys"]
    assert variable["value"] == mount["mountPath"]
    assert mount["readOnly"] is True
    assert "api-keys" not in str(render_service(service()))


@pytest.mark.parametrize(
    ("overrides", "resources"),
    [
        ((), {"requests": {"nvidia.com/gpu": "1"}, "limits": {"nvidia.com/gpu": "1"}}),
        (("pods.resources={requests: {cpu: 2}}",), {"requests": {"cpu": "2"}}),
        (("pods.resources={}",), {}),
    ],
)  # fmt: skip
def test_a_pod_asks_for_a_gpu_a_rank_unless_it_says_otherwise(overrides, resources):
    assert container(*overrides)["resources"] == resources


def test_the_service_and_the_budget_pick_the_pods_whatever_their_version():
    objects = rendered(*WHOLE)
    labels = pod_of(objects["Deployment"])["metadata"]["labels"]
    assert objects["Service"]["spec"]["selector"].items() <= labels.items()
    budget = objects["PodDisruptionBudget"]["spec"]
    assert budget["selector"]["matchLabels"].items() <= labels.items()
    assert budget["maxUnavailable"] == 1
    assert names.UID_LABEL not in objects["Deployment"]["spec"]["selector"]["matchLabels"]


def test_without_autoscaling_nothing_scales():
    assert set(rendered()) == {"ConfigMap", "Service", "Deployment", "PodDisruptionBudget"}


def test_an_autoscaler_scales_the_service_by_cpu_or_by_what_waits():
    cpu = rendered("autoscale={min: 2, max: 5, cpuPercent: 70}")["HorizontalPodAutoscaler"]["spec"]
    assert cpu["scaleTargetRef"]["kind"] == "PanguService"
    assert (cpu["minReplicas"], cpu["maxReplicas"]) == (2, 5)
    assert cpu["metrics"][0]["resource"]["target"]["averageUtilization"] == 70
    waiting = rendered("autoscale={max: 5, waiting: 8}")["HorizontalPodAutoscaler"]["spec"]
    assert waiting["metrics"][0]["pods"]["target"] == {"type": "AverageValue", "averageValue": "8"}


def test_keda_asks_prometheus_for_the_pods_of_this_service():
    found = rendered(
        "metadata.namespace=research", "autoscale={max: 5, waiting: 8, prometheus: 'http://p:9090'}"
    )
    (trigger,) = found["ScaledObject"]["spec"]["triggers"]
    assert trigger["metadata"] == {
        "serverAddress": "http://p:9090",
        "query": f'sum({names.WAITING_METRIC}{{namespace="research", pod=~"novel-[a-z0-9]+-[a-z0-9]{{5}}"}})',
        "threshold": "8",
    }
    assert "HorizontalPodAutoscaler" not in found


@pytest.mark.parametrize(
    ("block", "rule"),
    [
        ("{max: 3}", "exactly one of waiting, cpuPercent"),
        ("{max: 3, waiting: 1, cpuPercent: 1}", "exactly one of waiting, cpuPercent"),
        ("{max: 3, cpuPercent: 1, prometheus: 'http://p'}", "which is for waiting"),
        ("{min: 4, max: 3, waiting: 1}", r"min must not exceed max \(3\)"),
    ],
)
def test_an_autoscaler_that_cannot_work_is_refused(block, rule):
    with pytest.raises(ConfigError, match=rule):
        service(f"autoscale={block}")


def test_objects_have_an_owner_on_a_cluster_only():
    owners = [each["metadata"].get("ownerReferences") for each in render_service(service(*WHOLE))]
    assert all(each[0]["kind"] == "PanguService" for each in owners)
    assert all("ownerReferences" not in each["metadata"] for each in render_service(service()))


def test_a_job_says_what_serves_its_model(job):
    served = service_of(
        job("serve={replicas: 2, pods: {labels: {a: b}}}", "pods.schedulerName=gangs"), "v1"
    )
    assert (served.name, served.spec.model, served.spec.replicas) == (
        "small",
        "runs/small/model",
        2,
    )
    assert served.spec.workspace.claim_name == "work"
    assert served.spec.pods.scheduler_name == "gangs"
    assert served.spec.pods.labels == {"a": "b"}
    assert service_of(job(), "v1") is None


def test_what_a_job_leaves_out_is_left_to_others(job):
    manifest = manifest_of(service_of(job("serve={}", "workspace={size: 1Gi}"), "v1"))
    assert manifest["spec"] == {
        "image": "pangu-core:test",
        "workspace": {"claimName": "small-workspace"},
        "model": "runs/small/model",
        "pods": {},
    }
    scaled = manifest_of(
        service_of(job("serve={replicas: 2, autoscale: {max: 3, waiting: 1}}"), "v1")
    )
    assert "replicas" not in scaled["spec"]
    assert load(ServiceSpec, scaled["spec"]).autoscale.max == 3


@pytest.mark.parametrize(
    ("wide", "resources"),
    [
        ({"limits": {"nvidia.com/gpu": "8", "rdma/hca": "1"}, "requests": {"cpu": "96"}}, {"nvidia.com/gpu": "1"}),
        ({"limits": {"cpu": "2"}}, {"cpu": "2"}),
    ],
)  # fmt: skip
def test_a_trainers_node_is_too_much_for_a_service(wide, resources):
    defaults = load(
        PodSettings, {"resources": wide, "gracePeriod": 3600, "runtimeClassName": "nvidia"}
    )
    served = with_service_defaults(service(), defaults)
    assert served.spec.pods.resources.limits == resources
    assert served.spec.pods.grace_period < 3600
    assert served.spec.pods.runtime_class_name == "nvidia"


def test_several_gpus_for_one_copy_are_not_built():
    with pytest.raises(ConfigError, match=r"^tensorParallel: 2: is not built yet; use 1$"):
        service("tensorParallel=2")


def test_another_model_at_the_same_path_rolls_the_pods(job):
    first, second = (
        render_service(service_of(job("serve={}"), version))[2]["spec"]["template"]
        for version in ("v1", "v2")
    )
    assert first["metadata"] != second["metadata"]
    assert first["spec"] == second["spec"]
