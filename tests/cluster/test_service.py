"""Lives of a service against a real API server and the real Deployment controller."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from k8s import names
from pangu_core.errors import ConfigError
from pangu_core.messages import Termination
from tests.cluster.access import eventually
from tests.cluster.behaviour import Behaviour, Pod
from tests.cluster.jobs import DONE, PATIENCE_SECONDS, condition
from tests.cluster.services import SPEC, Services
from tests.cluster.stand_in import StandIn

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


@pytest.fixture
def services(crds: None, stand_in: StandIn, tmp_path: Path) -> Iterator[Services]:
    running = Services(stand_in, tmp_path)
    running.start_controller()
    yield running
    running.close()


def test_a_service_becomes_available_rolls_scales_and_goes(services):
    services.serve()
    status = services.until_up_to_date(2)
    assert condition(status, "Available")["status"] == "True"
    assert status["address"] == f"http://novel.{services.namespace}.svc:8000/v1"
    budget = services.child("poddisruptionbudgets", "apis/policy/v1")
    assert budget["spec"]["maxUnavailable"] == 1
    assert services.child("services", "api/v1")["spec"]["ports"][0]["port"] == 8000
    before = {pod["metadata"]["name"] for pod in services.stand_in.pods()}

    # Another model: new pods beside the old ones, which stay until the new ones answer.
    versions = services.child("deployments")["metadata"]["generation"]
    services.edit({"model": "runs/other/model"})
    eventually(lambda: services.child("deployments")["metadata"]["generation"] > versions)
    services.until_up_to_date(2)
    eventually(lambda: before.isdisjoint(p["metadata"]["name"] for p in services.stand_in.pods()))
    strategy = services.child("deployments")["spec"]["strategy"]["rollingUpdate"]
    assert (strategy["maxUnavailable"], strategy["maxSurge"]) == (0, 1)
    eventually(lambda: sum(name.startswith("configmap/") for name in services.children()) == 1)

    # By the scale subresource, as an autoscaler does, and by our own command.
    scale = services.cluster.request("GET", services.service_path("/scale"))
    assert scale["status"]["selector"] == status["selector"]
    services.edit({"replicas": 3}, "/scale")
    services.until_up_to_date(3)
    assert services.pangu("scale", "novel", "1") == "PanguService novel: 1 pods\n"
    services.until_up_to_date(1)
    assert "1/1    UpToDate" in services.pangu("status")

    version = services.cluster.request("GET", services.service_path())["metadata"]
    assert services.num_events("Available") == 1
    assert services.cluster.request("GET", services.service_path())["metadata"] == version

    services.pangu("delete", "novel")
    eventually(lambda: not services.children(), seconds=PATIENCE_SECONDS)


def test_what_keeps_pods_from_answering_is_in_the_status(services):
    services.stand_in.policy = lambda pod: Behaviour(waiting=("ErrImagePull", "no such image"))
    services.serve()
    status = services.until(lambda s: condition(s, "Progressing").get("reason") == "ErrImagePull")
    assert "no such image" in condition(status, "Progressing")["message"]
    assert condition(status, "Available")["status"] == "False"
    word = Termination(code=2, error=ConfigError.__name__, message="model: runs/x: not there")
    failing = Behaviour(exit_code=2, message=word, is_ready=False)
    services.stand_in.policy = lambda pod: failing
    status = services.until(lambda s: condition(s, "Progressing").get("reason") == "ConfigError")
    assert "model: runs/x: not there" in condition(status, "Progressing")["message"]
    services.stand_in.policy = lambda pod: Behaviour()
    services.until_up_to_date(2)
    assert services.num_events("ErrImagePull") == 1


def test_a_bad_model_takes_no_pod_from_the_good_one(services):
    services.serve(replicas=1)
    services.until_up_to_date(1)
    (good,) = services.stand_in.pods()
    old = good["metadata"]["annotations"][names.CHECKSUM_ANNOTATION]

    def policy(pod: Pod) -> Behaviour:
        is_old = pod["metadata"]["annotations"][names.CHECKSUM_ANNOTATION] == old
        return Behaviour() if is_old else Behaviour(exit_code=2, is_ready=False)

    services.stand_in.policy = policy
    services.edit({"model": "runs/missing/model"})
    status = services.until(lambda s: condition(s, "Progressing")["status"] == "False")
    assert condition(status, "Available")["status"] == "True"
    assert status["readyReplicas"] == 1
    services.edit({"model": SPEC["model"]})
    services.until_up_to_date(1)
    assert good["metadata"]["uid"] in {p["metadata"]["uid"] for p in services.stand_in.pods()}


def test_an_object_that_is_somebody_elses_is_named_and_left_alone(services):
    path = f"/api/v1/namespaces/{services.namespace}/services"
    theirs = {"metadata": {"name": "novel"}, "spec": {"ports": [{"port": 80}]}}
    services.cluster.request("POST", path, theirs)
    services.serve()
    status = services.until(lambda s: condition(s, "Accepted").get("reason") == "Refused")
    assert "Service novel" in condition(status, "Accepted")["message"]
    assert services.child("services", "api/v1")["spec"]["ports"][0]["port"] == 80
    services.cluster.request("DELETE", f"{path}/novel")
    services.until_up_to_date(2)


def test_a_job_makes_its_service_at_its_end_and_takes_nobody_elses_name(services):
    services.stand_in.policy = lambda pod: (
        Behaviour()
        if names.SERVICE_LABEL in pod["metadata"]["labels"]
        or pod["metadata"]["labels"][names.COMPONENT_LABEL] == "store"
        else Behaviour(exit_code=0, message=DONE)
    )
    services.serve()
    services.until_up_to_date(2)
    services.create(serve={"replicas": 1}, pods={"resources": {}})
    status = services.wait(lambda s: condition(s, "Served").get("reason") == "NameTaken")
    assert status["phase"] == "Complete"
    services.cluster.request("DELETE", services.service_path())
    services.wait(lambda s: condition(s, "Served").get("status") == "True")
    made = services.until_up_to_date(1)
    assert condition(made, "Available")["status"] == "True"
    item = services.cluster.request("GET", services.service_path())
    assert item["spec"]["model"] == "runs/novel/model"
    assert "ownerReferences" not in item["metadata"]
    services.cluster.request("DELETE", services.path("novel"))
    eventually(lambda: services.num_events("Serving") == 1)
    assert services.until_up_to_date(1)


KEDA = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: scaledobjects.keda.sh}
spec:
  group: keda.sh
  scope: Namespaced
  names: {kind: ScaledObject, listKind: ScaledObjectList, plural: scaledobjects, singular: scaledobject}
  versions:
  - name: v1alpha1
    served: true
    storage: true
    subresources: {status: {}}
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
"""


def test_autoscalers_are_made_where_they_may_be_and_keda_is_picked_up_when_it_comes(services):
    services.controllers[0].kill()
    services.start_controller(more=["--watch-autoscalers"])
    services.serve(autoscale={"max": 4, "cpuPercent": 70})
    autoscalers = ("horizontalpodautoscalers", "apis/autoscaling/v2")
    made = eventually(lambda: services.child(*autoscalers), seconds=PATIENCE_SECONDS)
    assert made["spec"]["scaleTargetRef"]["kind"] == "PanguService"
    services.edit({"autoscale": {"cpuPercent": None, "waiting": 2, "prometheus": "http://p:9090"}})
    services.until(lambda s: condition(s, "Autoscaled").get("reason") == "NotInstalled")
    assert condition(services.until_up_to_date(2), "Available")["status"] == "True"
    crd = services.cluster.folder / "keda.yaml"
    crd.write_text(KEDA, encoding="utf-8")
    services.cluster.kubectl("apply", "-f", str(crd))
    try:
        services.until(lambda s: condition(s, "Autoscaled").get("status") == "True")
        scaled = services.child("scaledobjects", "apis/keda.sh/v1alpha1")
        assert scaled["spec"]["maxReplicaCount"] == 4
    finally:
        services.cluster.kubectl("delete", "-f", str(crd))
