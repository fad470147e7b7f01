"""What is decided for a service at one moment."""

import json

import pytest

from controller.cluster.service_worker import service_view
from controller.observe import ClaimView, Waiting
from controller.service.objects import Apply, Drop
from controller.service.observe import ObservedService
from controller.service.reconcile import reconcile_service
from controller.service.transitions import service_transitions
from k8s import names
from k8s.spec import read_service
from k8s.status import ServiceStatus, service_from_dict, to_dict
from pangu_core.messages import Termination

SHARED = ClaimView("Bound", ("ReadWriteMany",))
NO_KEDA = frozenset({"HorizontalPodAutoscaler"})


def view(*, uid="u-1", **spec):
    form = {
        "image": "i",
        "workspace": {"claimName": "work"},
        "model": "runs/novel/model",
        "replicas": 2,
        "pods": {"resources": {"requests": {"cpu": "1000m"}}},
    }
    return service_view(
        read_service(
            {
                "apiVersion": names.API_VERSION,
                "kind": names.SERVICE_KIND,
                "metadata": {"name": "novel", "namespace": "n", "uid": uid, "generation": 1},
                "spec": form | spec,
            }
        )
    )


def stored(manifest, **status):
    """An object as the API server keeps it."""
    name = manifest["metadata"]["name"]
    metadata = {**manifest["metadata"], "uid": f"uid-{name}", "generation": 1}
    return {**manifest, "metadata": metadata, "status": status}


def settled(service=None):
    """Everything is there, and every pod answers."""
    counts = dict.fromkeys(("replicas", "readyReplicas", "updatedReplicas", "availableReplicas"), 2)
    return [stored(each, observedGeneration=1, **counts) for each in (service or view()).wanted]


def pod(name="novel-1", *, phase="Pending", conditions=(), **container):
    labels = names.service_labels("novel", "u-1")
    containers = [{"name": "pangu", **container}] if container else []
    status = {"phase": phase, "conditions": list(conditions), "containerStatuses": containers}
    return {
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels, "uid": name},
        "spec": {},
        "status": status,
    }


def decide(objects, service=None, *, status=None, claim=SHARED, now=10, **other):
    observed = ObservedService(
        service or view(), status or ServiceStatus(), tuple(objects), claim=claim, **other
    )
    return reconcile_service(observed, now)


def applied(decision):
    return [each.manifest["kind"] for each in decision.actions if isinstance(each, Apply)]


def truth(decision, kind):
    condition = decision.status.condition(kind)
    return condition.status, condition.reason


def changed(objects, kind, change):
    return [change(each) if each["kind"] == kind else each for each in objects]


def test_a_new_service_gets_all_its_objects_in_order():
    decision = decide([])
    assert applied(decision) == ["ConfigMap", "Service", "Deployment", "PodDisruptionBudget"]
    assert truth(decision, "Available") == ("False", "NotReady")
    assert decision.requeue_at is None


def test_what_is_in_line_is_not_written():
    decision = decide(settled())
    assert (decision.actions, decision.requeue_at) == ((), None)
    assert truth(decision, "Available") == ("True", "Answering")
    assert truth(decision, "Progressing") == ("True", "UpToDate")
    assert decision.status.selector == (
        "app.kubernetes.io/component=serve,pangu-finetune.io/service=novel"
    )
    assert decision.status.address == "http://novel.n.svc:8000/v1"
    again = decide(settled(), status=decision.status, now=99)
    assert again.status == decision.status
    assert service_from_dict(to_dict(decision.status)) == decision.status


def test_amounts_that_the_server_writes_otherwise_are_in_line():
    def as_stored(item):
        text = json.dumps(item)
        assert '"1000m"' in text
        return json.loads(text.replace('"1000m"', '"1"'))

    assert decide(changed(settled(), "Deployment", as_stored)).actions == ()


@pytest.mark.parametrize(
    "change",
    [
        lambda o: {**o, "spec": {**o["spec"], "replicas": 7}},
        lambda o: {**o, "spec": {**o["spec"], "strategy": {"type": "Recreate"}}},
        lambda o: {**o, "metadata": {**o["metadata"], "annotations": {}}},
        lambda o: {**o, "metadata": {**o["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}},
    ],
    ids=["scaled", "edited", "unsealed", "deleted"],
)
def test_what_somebody_changed_is_applied_again(change):
    assert applied(decide(changed(settled(), "Deployment", change))) == ["Deployment"]


def test_a_field_that_is_not_asked_for_any_more_is_taken_back():
    before = settled(view(image="i", pods={"schedulerName": "other", "resources": {}}))
    assert applied(decide(before, view(image="i", pods={"resources": {}}))) == ["Deployment"]


def test_a_changed_config_is_another_object_and_the_old_one_stays_until_the_rollout_is_over():
    after = view(model="runs/novel/model-2")
    decision = decide(settled(), after)
    assert applied(decision) == ["ConfigMap", "Deployment"]
    rolling = settled(after)
    old = settled()[0]
    counts = {"replicas": 3, "updatedReplicas": 1, "availableReplicas": 2, "readyReplicas": 2}
    half = changed(
        rolling, "Deployment", lambda o: {**o, "status": {"observedGeneration": 1, **counts}}
    )
    assert decide([old, *half], after).actions == ()
    assert truth(decide([old, *half], after), "Progressing") == ("True", "RollingOut")
    assert decide([old, *rolling], after).actions == (Drop(old),)


def test_objects_of_an_earlier_service_of_the_name_are_waited_for():
    decision = decide(settled(view(uid="u-0")), view())
    assert decision.actions == ()
    assert truth(decision, "Accepted") == ("False", "NameTaken")


@pytest.mark.parametrize(
    ("claim", "reason"),
    [
        (None, "ClaimMissing"),
        (ClaimView("Lost", ("ReadWriteMany",)), "ClaimLost"),
        (ClaimView("Bound", ("ReadWriteOnce",)), "ClaimSingleNode"),
    ],
)
def test_a_claim_that_cannot_be_used_is_named_and_waited_for(claim, reason):
    decision = decide([], claim=claim)
    assert (decision.actions, decision.requeue_at) == ((), 20)
    assert truth(decision, "Accepted") == ("False", reason)


def test_a_claim_for_one_node_will_do_for_pods_of_one_node():
    pinned = view(pods={"nodeSelector": {names.HOST_LABEL: "a"}})
    decision = decide([], pinned, claim=ClaimView("Bound", ("ReadWriteOnce",)))
    assert len(decision.actions) == 4


WORD = Termination(code=2, error="ConfigError", message="model: runs/x: must be a checkpoint")


@pytest.mark.parametrize(
    ("trouble", "reason", "words"),
    [
        (pod(state={"waiting": {"reason": "ErrImagePull", "message": "no such image"}}), "ErrImagePull", "no such image"),
        (
            pod(conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3"}]),
            "Unschedulable",
            "0/3",
        ),
        (
            pod(
                phase="Running",
                state={"waiting": {"reason": "CrashLoopBackOff"}},
                lastState={"terminated": {"exitCode": 2, "message": WORD.to_json()}},
                restartCount=3,
                ready=False,
            ),
            "ConfigError",
            "exit code 2, 3 restarts: model: runs/x: must be a checkpoint",
        ),
        (
            pod(
                phase="Running",
                state={"running": {}},
                lastState={"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
                ready=False,
            ),
            "OOMKilled",
            "exit code 137",
        ),
    ],
)  # fmt: skip
def test_why_a_pod_does_not_answer_is_in_the_status(trouble, reason, words):
    decision = decide([*settled(), trouble])
    assert truth(decision, "Progressing") == ("False", reason)
    assert words in decision.status.condition("Progressing").message
    assert "pod novel-1: " in decision.status.condition("Progressing").message


def test_a_volume_that_does_not_come_is_told_by_a_warning():
    silent = pod(state={"waiting": {"reason": "ContainerCreating"}})
    waiting = decide([*settled(), silent])
    assert truth(waiting, "Progressing") == ("True", "UpToDate")
    assert waiting.requeue_at == 20
    why = {"novel-1": Waiting("FailedMount", 'secret "keys" not found')}
    warned = decide([*settled(), silent], warnings=why)
    assert truth(warned, "Progressing") == ("False", "FailedMount")


def test_a_pod_that_was_started_again_and_answers_is_no_trouble():
    fine = pod(
        phase="Running",
        state={"running": {}},
        lastState={"terminated": {"exitCode": 1}},
        ready=True,
    )
    assert truth(decide([*settled(), fine]), "Progressing") == ("True", "UpToDate")


def test_pods_that_are_not_made_are_told_by_the_deployment():
    def refused(item):
        condition = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "quota"}  # fmt: skip
        return {**item, "status": {"conditions": [condition]}}

    decision = decide(changed(settled(), "Deployment", refused))
    assert truth(decision, "Progressing") == ("False", "FailedCreate")


def test_a_refused_write_is_in_the_status():
    assert truth(decide([], refusal="deployments is forbidden"), "Accepted") == ("False", "Refused")


def test_no_pods_are_no_fault():
    none = view(replicas=0)
    decision = decide(
        changed(settled(none), "Deployment", lambda o: {**o, "status": {"observedGeneration": 1}}),
        none,
    )
    assert truth(decision, "Available") == ("False", "NoReplicas")
    assert truth(decision, "Progressing") == ("True", "UpToDate")


SCALED = {"autoscale": {"max": 4, "waiting": 2}}
BY_KEDA = {"autoscale": {"max": 4, "waiting": 2, "prometheus": "http://p"}}


def test_an_autoscaler_is_made_where_it_can_be_and_goes_when_it_is_not_asked_for():
    service = view(**SCALED)
    assert applied(decide(settled(), service)) == ["HorizontalPodAutoscaler"]
    there = settled(service)
    assert truth(decide(there, service), "Autoscaled") == ("True", "Scaling")
    assert decide(there).actions == (Drop(there[-1]),)


def test_without_keda_a_service_runs_and_looks_again():
    service = view(**BY_KEDA)
    without = decide(settled(), service, installed=NO_KEDA)
    assert (without.actions, without.requeue_at) == ((), 20)
    assert truth(without, "Autoscaled") == ("False", "NotInstalled")
    assert truth(without, "Available") == ("True", "Answering")
    assert applied(decide(settled(), service)) == ["ScaledObject"]


def test_why_an_autoscaler_does_not_work_is_in_the_status():
    service = view(**SCALED)
    failing = {"type": "ScalingActive", "status": "False", "reason": "FailedGetPodsMetric", "message": "no metrics"}  # fmt: skip
    there = changed(
        settled(service),
        "HorizontalPodAutoscaler",
        lambda o: {**o, "status": {"conditions": [failing]}},
    )
    assert truth(decide(there, service), "Autoscaled") == ("False", "FailedGetPodsMetric")


def test_each_change_is_told_once():
    first = decide([]).status
    assert service_transitions(ServiceStatus(), first) == ()
    up = decide(settled(), status=first).status
    assert [c.reason for c in service_transitions(first, up)] == ["Available"]
    broken = pod(state={"waiting": {"reason": "ErrImagePull", "message": "no such image"}})
    failing = decide([*settled(), broken], status=up).status
    (change,) = service_transitions(up, failing)
    assert (change.reason, change.is_warning) == ("ErrImagePull", True)
    assert service_transitions(failing, decide([*settled(), broken], status=failing).status) == ()
    down = decide([], status=failing).status
    assert [c.reason for c in service_transitions(failing, down)] == ["Unavailable"]
