"""A job that is complete makes its service, once, and never takes another's name."""

from dataclasses import replace

import pytest

from controller.actions import Remove, Serve
from controller.observe import FoundService, JobView, Observed, StagePlan
from controller.reconcile import reconcile
from controller.transitions import transitions
from k8s.status import JobStatus, StageStatus

JOB = JobView("novel", "u-1", (StagePlan("merge"),), serves=True)
DONE = JobStatus(
    stages=(StageStatus("merge", "Succeeded", 1, manifest_sha256="ab" * 32),),
)
VERSION = "u-1.abababababababab"


def decide(status, found=None, *, job=JOB, now=10, refusal=""):
    return reconcile(Observed(job, status, service=found, refusal=refusal), now)


def served(decision):
    condition = decision.status.condition("Served")
    return condition.status, condition.reason


def complete():
    return decide(DONE).status


def test_the_service_is_made_when_the_job_is_complete():
    running = decide(JobStatus(), job=replace(JOB, stages=(StagePlan("merge"),)))
    assert served(running) == ("False", "NotYet")
    assert not any(isinstance(action, Serve) for action in running.actions)
    ended = decide(DONE)
    assert ended.status.phase == "Complete"
    assert ended.actions == (Serve(VERSION),)
    assert ended.requeue_at == 11


def test_it_is_made_once_and_its_later_life_is_not_the_jobs():
    there = decide(complete(), FoundService(True, VERSION), now=11)
    assert served(there) == ("True", "Created")
    assert (there.actions, there.requeue_at) == ((), None)
    deleted = decide(there.status, None, now=12)
    assert (deleted.actions, deleted.status) == ((), there.status)


def test_a_service_of_an_earlier_job_of_the_name_is_brought_up_to_date():
    decision = decide(complete(), FoundService(True, "u-0.12"), now=11)
    assert served(decision) == ("False", "Creating")
    assert decision.actions == (Serve(VERSION),)


def test_a_service_that_is_not_ours_is_named_and_left_alone_until_it_is_gone():
    taken = decide(complete(), FoundService(False, ""), now=11)
    assert served(taken) == ("False", "NameTaken")
    assert "PanguService novel" in taken.status.condition("Served").message
    assert (taken.actions, taken.requeue_at) == ((), 21)
    assert taken.status.phase == "Complete"
    assert decide(taken.status, None, now=21).actions == (Serve(VERSION),)


def test_a_refused_write_is_in_the_status():
    decision = decide(complete(), refusal="panguservices is forbidden", now=11)
    assert served(decision) == ("False", "Refused")
    assert decision.actions == (Serve(VERSION),)


def test_the_service_is_made_before_the_job_is_removed():
    decision = decide(DONE, job=replace(JOB, ttl_seconds=0))
    assert decision.actions == (Serve(VERSION), Remove())


def test_a_job_that_asks_for_none_says_nothing():
    decision = decide(DONE, job=replace(JOB, serves=False))
    assert decision.actions == ()
    assert decision.status.condition("Served") is None


@pytest.mark.parametrize(
    ("found", "reason", "is_warning"),
    [(FoundService(True, VERSION), "Serving", False), (FoundService(False, ""), "NameTaken", True)],
)
def test_what_became_of_it_is_told_once(found, reason, is_warning):
    before = complete()
    after = decide(before, found, now=11).status
    (change,) = transitions(before, after)
    assert (change.reason, change.is_warning) == (reason, is_warning)
    again = decide(after, found, now=12).status
    assert transitions(after, again) == ()
