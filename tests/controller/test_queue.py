"""Jobs in a queue: what is rendered, and what the status says while it holds them."""

import pytest

from controller.cluster.workloads import Workloads, admission
from controller.jobs import job_view
from controller.observe import AttemptView, ClaimView, Observed, PodView, Waiting, attempts_of
from controller.reconcile import reconcile
from k8s import names
from k8s.render import render_stage
from k8s.spec import parse_job
from k8s.status import Attempt, JobStatus

JOB = """
apiVersion: pangu-finetune.io/v1alpha1
kind: PanguJob
metadata: {name: novel}
spec:
  image: none
  workspace: {claimName: work}
  model: {preset: tiny}
  data: {input: corpus.txt}
  train: {steps: 1, globalBatchSize: 1, nodes: {min: 1, max: 4}}
  queue: {name: research, priorityClass: low}
"""
NO_ROOM = {
    "type": "QuotaReserved",
    "status": "False",
    "reason": "Pending",
    "message": "couldn't assign flavors: insufficient unused quota for nvidia.com/gpu",
}
UNAVAILABLE = {**NO_ROOM, "status": "True", "message": ""}
EVICTED = {"type": "Evicted", "status": "True", "reason": "Preempted", "message": "by novel-2"}


@pytest.mark.parametrize("stage", ["preprocess", "train", "merge"])
def test_queued_objects_are_made_suspended_and_labelled_and_their_pods_are_not(stage):
    main = render_stage(parse_job(JOB), stage)[-1]
    assert main["metadata"]["labels"][names.QUEUE_LABEL] == "research"
    assert main["metadata"]["labels"][names.QUEUE_PRIORITY_LABEL] == "low"
    spec = main["spec"]
    assert spec.get("suspend") or spec["runPolicy"]["suspend"]
    others = render_stage(parse_job(JOB), stage)[:-1]
    template = spec.get("template") or spec["pytorchReplicaSpecs"]["Worker"]["template"]
    for item in (*others, template):
        assert names.QUEUE_LABEL not in item["metadata"]["labels"]


def test_a_job_without_a_queue_is_not_suspended():
    job = parse_job(JOB, ["queue=null"])
    assert "suspend" not in render_stage(job, "merge")[-1]["spec"]


@pytest.mark.parametrize("stage", ["preprocess", "train"])
def test_a_suspended_object_is_seen_as_held(stage):
    main = render_stage(parse_job(JOB), stage)[-1]
    (view,) = attempts_of([main], progress={})
    assert view.is_suspended


def decide(job, status, *views, now=0, said=None):
    claim = ClaimView("Bound", ("ReadWriteMany",))
    return reconcile(Observed(job, status, views, claim=claim, admission=said), now)


def test_the_queues_own_words_are_in_the_status():
    job = job_view(parse_job(JOB))
    status = decide(job, JobStatus()).status
    held = AttemptView("preprocess", 1, is_suspended=True)
    after = decide(job, status, held, said=Waiting("Pending", "no room"))
    queued = after.status.condition("Queued")
    assert (queued.status, queued.reason, queued.message) == ("True", "Pending", "no room")


def test_an_evicted_gang_is_pending_again():
    job = job_view(parse_job(JOB))
    status = decide(job, JobStatus()).status
    busy = AttemptView("preprocess", 1, pods=(PodView("p", "u", "0", "Running"),))
    status = decide(job, status, busy).status
    assert status.phase == "Running"
    held = AttemptView("preprocess", 1, is_suspended=True)
    assert decide(job, status, held).status.phase == "Pending"


@pytest.mark.parametrize(
    ("conditions", "reason"),
    [([], None), ([NO_ROOM], "Pending"), ([EVICTED, UNAVAILABLE], "Preempted")],
)
def test_a_workload_says_why_it_waits(conditions, reason):
    found = admission(conditions)
    assert (found.reason if found else None) == reason


class Server:
    """Counts how often it is asked."""

    def __init__(self, answer):
        self.answer, self.asked = answer, 0

    def list(self, _kind, _namespace, **_query):
        self.asked += 1
        return self.answer


def test_a_workload_is_read_while_its_attempt_is_held_and_not_again_at_once():
    main = render_stage(parse_job(JOB), "train")[-1]
    main["metadata"] |= {"uid": "u", "namespace": "n"}
    server = Server({"items": [{"status": {"conditions": [NO_ROOM]}}]})
    workloads = Workloads(server)
    for _ in range(3):
        assert workloads.of(Attempt("train", 1, created_at=0), [main]).reason == "Pending"
    assert workloads.of(Attempt("train", 2, created_at=0), [main]) is None
    assert server.asked == 1
