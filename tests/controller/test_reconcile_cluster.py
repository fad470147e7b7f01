"""What only a cluster brings about: sizes that change, claims, lost nodes, queues, times to live."""

from dataclasses import replace

import pytest

from controller.actions import Create, Delete, Kill, MakeClaim, Remove, Scale
from controller.observe import (
    AttemptView,
    ClaimView,
    JobView,
    Observed,
    PodView,
    StagePlan,
    Waiting,
)
from controller.reconcile import reconcile
from controller.size import needs_new_size
from k8s.status import Attempt, JobStatus

SHARED = ClaimView("Bound", ("ReadWriteMany",))
JOB = JobView(
    "novel", "u-1", (StagePlan("train", needs_manifest=True),), min_nodes=1, max_nodes=4, claim="c"
)


def decide(job, status, *views, now=10, claim=SHARED, refusal=""):
    return reconcile(Observed(job, status, views, claim=claim, refusal=refusal), now)


def training(job=JOB, *, now=0):
    """The status of a job whose first attempt was seen to run."""
    status = decide(job, JobStatus(), now=now).status
    return decide(job, status, world(4), now=now).status


def world(replicas, *pods, **other):
    pods = pods or (PodView("p", "u", "0", "Running"),)
    return AttemptView("train", 1, pods=pods, replicas=replicas, **other)


def truth(decision, kind):
    found = decision.status.condition(kind)
    return found.status, found.reason


def test_a_smaller_size_within_the_bounds_is_one_of_the_replica_count():
    decision = decide(replace(JOB, max_nodes=2), training(), world(4))
    assert decision.actions == (Scale("train", 1, 2),)
    assert decision.status.attempt is not None


@pytest.mark.parametrize("nodes", [{"max_nodes": 8}, {"min_nodes": 5, "max_nodes": 5}])
def test_a_size_that_the_pods_were_not_told_needs_a_new_attempt(nodes):
    job = replace(JOB, **nodes)
    decision = decide(job, training(), world(4))
    assert decision.actions == (Delete("train", 1),)
    assert decision.status.history[-1].cause == "Resized"
    assert not decision.status.charges
    assert decide(job, decision.status).actions == (Create("train", 2),)


def test_under_a_queue_every_change_of_size_is_a_new_attempt_and_replicas_are_left_alone():
    job = replace(JOB, is_queued=True)
    assert decide(job, training(job), world(3)).actions == ()
    assert needs_new_size(Attempt("train", 1, 0, min_nodes=1, max_nodes=4), job) is False
    smaller = replace(job, max_nodes=2)
    assert decide(smaller, training(job), world(4)).status.history[-1].cause == "Resized"


def test_a_claim_that_a_job_asks_for_is_made_and_waited_for():
    job = replace(JOB, makes_claim=True)
    decision = decide(job, JobStatus(), claim=None)
    assert decision.actions == (MakeClaim(),)
    assert decide(job, decision.status).actions == (Create("train", 1),)


@pytest.mark.parametrize(
    ("claim", "reason"),
    [
        (None, "ClaimMissing"),
        (ClaimView("Lost", ("ReadWriteMany",)), "ClaimLost"),
        (ClaimView("Bound", ("ReadWriteOncePod",)), "ClaimSinglePod"),
        (ClaimView("Bound", ("ReadWriteOnce",)), "ClaimSingleNode"),
    ],
)
def test_a_workspace_that_cannot_be_used_is_refused_with_its_reason(claim, reason):
    decision = decide(replace(JOB, needs_many=True), JobStatus(), claim=claim)
    assert decision.actions == ()
    assert truth(decision, "Accepted") == ("False", reason)
    assert decision.requeue_at == 20


def test_a_claim_for_one_node_will_do_for_a_job_on_one_node():
    decision = decide(JOB, JobStatus(), claim=ClaimView("Bound", ("ReadWriteOnce",)))
    assert decision.actions == (Create("train", 1),)


def test_a_pod_past_its_grace_on_a_lost_node_is_killed_and_on_a_good_one_is_not():
    late = PodView("p", "u", "0", "Running", kill_at=8)
    lost = replace(late, is_lost=True)
    assert decide(JOB, training(), world(4, late)).actions == ()
    assert decide(JOB, training(), world(4, lost)).actions == (Kill("p", "u"),)
    early = decide(JOB, training(), world(4, lost), now=5)
    assert early.actions == ()
    assert early.requeue_at == 8


def test_a_job_is_removed_when_its_time_to_live_is_over():
    job = replace(JOB, ttl_seconds=60)
    ended = replace(training(job), phase="Complete", completed_at=10, attempt=None, exit_code=0)
    before = decide(job, ended, now=69)
    assert before.actions == ()
    assert before.requeue_at == 70
    assert decide(job, ended, now=70).actions == (Remove(),)
    assert decide(JOB, ended, now=10_000).actions == ()


def test_a_job_that_a_queue_holds_is_not_short_of_pods():
    job = replace(JOB, is_queued=True, pending_seconds=5)
    held = AttemptView("train", 1, replicas=4, is_suspended=True)
    decision = decide(job, training(job), held, now=1_000)
    assert decision.status.attempt is not None
    assert truth(decision, "Queued") == ("True", "WaitingForAdmission")


def test_why_pods_do_not_run_is_said_by_whoever_knows():
    waiting = PodView("p", "u", "0", "Pending", waiting=Waiting("ErrImagePull", "no such image"))
    assert truth(decide(JOB, training(), world(4, waiting)), "Scheduled") == (
        "False",
        "ErrImagePull",
    )
    quota = AttemptView("train", 1, replicas=4, trouble=Waiting("FailedCreate", "exceeded quota"))
    assert truth(decide(JOB, training(), quota), "Scheduled") == ("False", "FailedCreate")
    refused = decide(JOB, training(), world(4), refusal="pods is forbidden")
    assert truth(refused, "Scheduled") == ("False", "Refused")
    assert truth(decide(JOB, training(), world(4)), "Scheduled") == ("True", "AllPodsPlaced")
