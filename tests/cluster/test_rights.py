"""The controller with the chart's rights alone, through the lives of jobs, and what it used of them."""

from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes.client import ApiException

from k8s import names
from k8s.render import render_stage
from k8s.spec import read_job
from pangu_core.errors import DataError
from tests.cluster.access import STRATEGIC_PATCH, eventually
from tests.cluster.behaviour import Behaviour
from tests.cluster.jobs import DONE, PATIENCE_SECONDS, until_training
from tests.cluster.services import Services as Jobs
from tests.cluster.stand_in import StandIn
from tests.cluster.test_chart import GUEST, Helm

pytestmark = [pytest.mark.cluster, pytest.mark.control_plane, pytest.mark.timeout(400)]

Use = tuple[str, str, str]  # API group, resource with its part, verb
# Asked by the API server's admission for it, when it makes an object that blocks its owner's end.
BY_ADMISSION = {
    (names.GROUP, "pangujobs/finalizers", "update"),
    (names.GROUP, "panguservices/finalizers", "update"),
}
TOKENS = {"format": "tokens", "input": "tokens/novel"}


@pytest.fixture(scope="module")
def lived(control_plane, crds, tmp_path_factory) -> Iterator[tuple[set[Use], list[Any]]]:
    """What the chart grants, and every request of the controller while jobs lived."""
    plane = control_plane
    with plane.namespace() as namespace, StandIn(plane, namespace) as stand_in:
        values = GUEST | {"watch": {"nodes": True}}
        with Helm(plane, namespace).installed(values=values):
            jobs = Jobs(stand_in, tmp_path_factory.mktemp("rights"))
            kubeconfig = plane.service_account(namespace, "pangu-controller")
            jobs.start_controller(kubeconfig, ["--watch-nodes"])
            try:
                for live in (_serves, _changes, _ends_of_itself, _is_held, _loses_a_node):
                    stand_in.policy = until_training
                    live(jobs)
                    _deleted(jobs)
                for stage, data in (("preprocess", {"input": "a"}), ("train", TOKENS)):
                    _finds_its_objects_there(jobs, stage, data)
                    _deleted(jobs)
            finally:
                jobs.close()
            granted = set(_granted(plane, namespace))
        user = f"system:serviceaccount:{namespace}:pangu-controller"
        events = [e for e in plane.audit_events() if e["user"]["username"] == user]
        yield granted, [e for e in events if "objectRef" in e]


def test_nothing_that_the_controller_does_is_forbidden(lived):
    _, events = lived
    refused = [e["requestURI"] for e in events if e["responseStatus"].get("code") == 403]
    assert refused == []


def test_nothing_is_granted_that_the_controller_does_not_use(lived):
    granted, events = lived
    used = {use for event in events for use in _uses(event)}
    assert granted - used == BY_ADMISSION


def _serves(jobs: Jobs) -> None:
    """A service that is changed and deleted."""
    jobs.stand_in.policy = lambda pod: Behaviour()
    jobs.serve()
    jobs.until_up_to_date(2)
    jobs.edit({"model": "runs/other/model"})
    jobs.until_up_to_date(2)
    body = {"propagationPolicy": "Foreground"}
    jobs.cluster.request("DELETE", jobs.service_path(), body)
    eventually(lambda: _is_gone(jobs, jobs.service_path()), seconds=PATIENCE_SECONDS)


def _changes(jobs: Jobs) -> None:
    """Suspended while it prepares, resumed, made smaller, failed, started again."""
    jobs.stand_in.policy = lambda pod: Behaviour()
    jobs.create(workspace={"size": "1Gi"})
    jobs.wait_for_pods("preprocess", 1, attempt=1)
    jobs.change({"suspend": True})
    jobs.wait(lambda s: s["phase"] == "Suspended")
    jobs.stand_in.policy = until_training
    jobs.change({"suspend": False})
    jobs.wait_for_pods("train", 2, attempt=1)
    jobs.change({"train": {"nodes": {"max": 1}}})
    [worker] = jobs.wait_for_pods("train", 1, attempt=1)
    jobs.stand_in.end(worker, DataError.exit_code)
    jobs.wait_for_pods("train", 1, attempt=2)


def _ends_of_itself(jobs: Jobs) -> None:
    """Complete with a service, and deleted when its time to live is over."""
    jobs.create(data=TOKENS, ttlSecondsAfterFinished=1, serve={"replicas": 1})
    for worker in jobs.wait_for_pods("train", 2, attempt=1):
        jobs.stand_in.end(worker, 0, message=DONE)
    eventually(lambda: _is_gone(jobs, jobs.path("novel")), seconds=PATIENCE_SECONDS)
    jobs.cluster.request("DELETE", jobs.service_path(), {"propagationPolicy": "Foreground"})
    eventually(lambda: _is_gone(jobs, jobs.service_path()), seconds=PATIENCE_SECONDS)


def _is_held(jobs: Jobs) -> None:
    """No pod may be made."""
    quotas = f"/api/v1/namespaces/{jobs.namespace}/resourcequotas"
    body = {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    jobs.cluster.request("POST", quotas, body)
    eventually(lambda: jobs.cluster.request("GET", f"{quotas}/none")["status"].get("hard"))
    jobs.create()
    jobs.wait(lambda s: "exceeded quota" in str(s.get("conditions")))
    jobs.cluster.request("DELETE", f"{quotas}/none")


def _loses_a_node(jobs: Jobs) -> None:
    """A pod is asked to go and does not, since nobody is there to end it."""
    jobs.create(data=TOKENS, pods={"resources": {}, "gracePeriod": 30})
    jobs.wait_for_pods("train", 2, attempt=1)
    jobs.stand_in.policy = lambda pod: Behaviour(stop_seconds=float("inf"))
    node = f"/api/v1/nodes/{jobs.stand_in.node}/status"
    _write_ready(jobs, node, "False")
    path = f"/api/v1/namespaces/{jobs.namespace}/pods/novel-train-1-worker-1"
    jobs.cluster.request("DELETE", path, {"gracePeriodSeconds": 1})
    eventually(lambda: _was_killed(jobs), seconds=PATIENCE_SECONDS)
    _write_ready(jobs, node, "True")
    jobs.stand_in.policy = until_training


def _finds_its_objects_there(jobs: Jobs, stage: str, data: dict[str, str]) -> None:
    """As after a kill between create and answer; without labels, so that no watch tells of them."""
    jobs.create(suspend=True, data=data)
    jobs.wait(lambda s: s.get("phase") == "Suspended")
    job = read_job(jobs.job())
    paths = {"ConfigMap": "api/v1", "Service": "api/v1", "Job": "apis/batch/v1",
             "Deployment": "apis/apps/v1", "PyTorchJob": "apis/kubeflow.org/v1"}  # fmt: skip
    wanted = set()
    for manifest in render_stage(job, stage, 1):
        manifest["metadata"]["labels"] = {names.UID_LABEL: job.uid}
        _hold(manifest)
        plural = f"{manifest['kind'].lower()}s"
        path = f"/{paths[manifest['kind']]}/namespaces/{jobs.namespace}/{plural}"
        jobs.cluster.request("POST", path, manifest)
        wanted.add((plural, manifest["metadata"]["name"]))
    jobs.change({"suspend": False})
    try:
        eventually(lambda: wanted <= _read_again(jobs), seconds=PATIENCE_SECONDS)
    except AssertionError:
        log = jobs.log.read_text(encoding="utf-8")[-3_000:]
        raise AssertionError(f"{wanted - _read_again(jobs)}\n{jobs.status()}\n{log}") from None


def _hold(manifest: dict[str, Any]) -> None:
    """Let an object make no pods."""
    if manifest["kind"] == "Job":
        manifest["spec"]["suspend"] = True
    elif manifest["kind"] == "PyTorchJob":
        manifest["spec"]["runPolicy"]["suspend"] = True
    elif manifest["kind"] == "Deployment":
        manifest["spec"]["replicas"] = 0


def _read_again(jobs: Jobs) -> set[tuple[str, str]]:
    return {(o["resource"], o["name"]) for e in _own(jobs, "get") for o in [e["objectRef"]]}


def _was_killed(jobs: Jobs) -> bool:
    return any(e["objectRef"]["resource"] == "pods" for e in _own(jobs, "delete"))


def _own(jobs: Jobs, verb: str) -> list[dict[str, Any]]:
    user = f"system:serviceaccount:{jobs.namespace}:pangu-controller"
    events = jobs.stand_in.cluster.audit_events()
    return [e for e in events if e["user"]["username"] == user and e["verb"] == verb]


def _write_ready(jobs: Jobs, path: str, status: str) -> None:
    body = {"status": {"conditions": [{"type": "Ready", "status": status}]}}
    jobs.cluster.request("PATCH", path, body, kind=STRATEGIC_PATCH)


def _deleted(jobs: Jobs) -> None:
    """The job and all that it owned."""
    body = {"propagationPolicy": "Foreground"}
    if not _is_gone(jobs, jobs.path("novel")):
        jobs.cluster.request("DELETE", jobs.path("novel"), body)
    eventually(lambda: _is_gone(jobs, jobs.path("novel")), seconds=PATIENCE_SECONDS)
    eventually(lambda: not _of_the_job(jobs), seconds=PATIENCE_SECONDS)


def _of_the_job(jobs: Jobs) -> list[str]:
    pods = [pod["metadata"]["name"] for pod in jobs.stand_in.pods()]
    return [name for name in pods if name.startswith("novel-")]


def _is_gone(jobs: Jobs, path: str) -> bool:
    try:
        jobs.cluster.request("GET", path)
    except ApiException as error:
        return error.status == 404
    return False


def _granted(plane, namespace: str) -> Iterator[Use]:
    """Everything that the chart's roles let the controller do."""
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    roles = plane.request("GET", f"{rbac}/namespaces/{namespace}/roles")["items"]
    roles.append(plane.request("GET", f"{rbac}/clusterroles/pangu-controller-{namespace}-nodes"))
    for rule in (rule for role in roles for rule in role["rules"]):
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                yield from ((group, resource, verb) for verb in rule["verbs"])


def _uses(event: dict[str, Any]) -> Iterator[Use]:
    found = event["objectRef"]
    part = f"/{found['subresource']}" if "subresource" in found else ""
    group, resource = found.get("apiGroup", ""), f"{found['resource']}{part}"
    yield group, resource, event["verb"]
    if event["verb"] == "patch" and event["responseStatus"].get("code") == 201:
        yield group, resource, "create"  # asked for where applying makes the object
