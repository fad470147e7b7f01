"""From objects in the API server's form to views."""

import pytest

from controller.observe import attempts_of, pod_view
from k8s import names
from k8s.status import to_rfc3339
from pangu_core.messages import Progress, Termination

LABELS = names.labels("novel", "uid-1", "train", 2, "train")
STORE = names.labels("novel", "uid-1", "train", 2, names.STORE_CONTAINER)
WORD = Termination(code=3, error="DataError")


def made(kind, name, labels=LABELS, *, deleted=None, **rest):
    metadata = {"name": name, "uid": f"uid-{name}", "labels": labels}
    if deleted is not None:
        metadata |= {"deletionTimestamp": to_rfc3339(deleted), "deletionGracePeriodSeconds": 30}
    return {"kind": kind, "metadata": metadata, **rest}


def ended(code, *, reason="Error", message="", at=100):
    state = {"exitCode": code, "reason": reason, "message": message, "finishedAt": to_rfc3339(at)}
    return {"phase": "Failed", "containerStatuses": [{"state": {"terminated": state}}]}


def workers(count):
    return {"pytorchReplicaSpecs": {"Worker": {"replicas": count}}}


def test_the_objects_of_an_attempt_make_one_view():
    condition = {"type": "Failed", "status": "True", "reason": "PodFailed", "message": "why"}
    objects = [
        made("PyTorchJob", "j", status={"conditions": [condition]}) | {"spec": workers(4)},
        made("Pod", "p", status={"phase": "Running"}),
        made("Pod", "s", STORE, status={"phase": "Running"}),
        made("Deployment", "d", STORE),
        made("ConfigMap", "stranger", {}),
    ]
    answer = Progress(phase="step", step=4)
    (view,) = attempts_of(objects, progress={("train", 2): answer})
    assert (view.stage, view.number, view.failed, view.failure) == (
        "train",
        2,
        True,
        "PodFailed: why",
    )
    assert [pod.name for pod in view.pods] == ["p"]
    assert view.has_helpers
    assert view.progress == answer


def test_an_attempt_is_deleting_once_all_but_its_store_is():
    job, store = made("Job", "j", deleted=9), made("Service", "s", STORE)
    (view,) = attempts_of([job, store, made("Pod", "p")], progress={})
    assert (view.deleting, view.has_main, view.has_helpers) == (True, False, True)
    for orphan in (made("Pod", "p"), made("ConfigMap", "c")):
        assert not attempts_of([orphan], progress={})[0].deleting


def test_an_ended_pod_says_how():
    view = pod_view(made("Pod", "p", status=ended(3, message=WORD.to_json())))
    assert (view.phase, view.exit_code, view.finished_at) == ("Failed", 3, 100)
    assert view.termination == WORD


def test_a_last_word_that_is_not_ours_is_kept_as_text():
    view = pod_view(made("Pod", "p", status=ended(137, reason="OOMKilled", message="tail of log")))
    assert (view.reason, view.termination, view.message) == ("OOMKilled", None, "tail of log")


@pytest.mark.parametrize(("deleted", "disrupted"), [(None, False), (120, True), (131, False)])
def test_a_deletion_before_the_end_is_a_disruption_and_one_after_it_is_not(deleted, disrupted):
    view = pod_view(made("Pod", "p", deleted=deleted, status=ended(1)))
    assert view.disrupted == disrupted


def test_an_eviction_is_a_disruption():
    target = {"type": "DisruptionTarget", "status": "True"}
    assert pod_view(made("Pod", "p", status={**ended(1), "conditions": [target]})).disrupted
    assert pod_view(made("Pod", "p", status={"phase": "Failed", "reason": "Evicted"})).disrupted
