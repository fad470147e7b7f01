"""What a user may ask of a job beside suspending it: to end for good, to run again from a stage."""

from dataclasses import replace

import pytest

from controller.actions import Create, Delete, Remove
from controller.observe import AttemptView, JobView, Observed, PodView, StagePlan
from controller.reconcile import reconcile
from k8s.status import JobStatus
from pangu_core.messages import Termination

STAGES = ("preprocess", "train", "merge")
JOB = JobView("novel", "u-1", tuple(StagePlan(s, needs_manifest=s == "train") for s in STAGES))
CANCELLED = replace(JOB, cancel=True)
BUSY = PodView("p", "u", "0", "Running")


def decide(job, status, *views, now=10):
    return reconcile(Observed(job, status, views), now)


def done(stage, number=1):
    word = Termination(code=0, manifest_sha256="ab")
    pod = PodView("p", f"{stage}-{number}", "0", "Succeeded", exit_code=0, termination=word)
    return AttemptView(stage, number, pods=(pod,), succeeded=True)


def busy(stage, number=1):
    return AttemptView(stage, number, pods=(BUSY,))


def training():
    status = decide(JOB, JobStatus()).status
    status = decide(JOB, status, done("preprocess")).status
    return decide(JOB, status, done("preprocess"), busy("train")).status


def complete():
    views, status = [], decide(JOB, JobStatus()).status
    for stage in STAGES:
        views.append(done(stage))
        status = decide(JOB, status, *views).status
    assert status.phase == "Complete"
    return status, tuple(views)


def test_a_cancelled_job_saves_stops_and_is_over():
    decision = decide(CANCELLED, training(), done("preprocess"), busy("train"))
    assert decision.actions == (Delete("train", 1),)
    assert (decision.status.phase, decision.status.exit_code) == ("Cancelled", 143)
    assert decision.status.condition("Failed").reason == "Cancelled"
    after = decide(CANCELLED, decision.status, done("preprocess"), now=5_000)
    assert (after.status.phase, after.actions) == ("Cancelled", ())


def test_cancelling_ends_a_suspended_job_and_one_that_never_began():
    suspended = decide(replace(JOB, suspend=True), JobStatus()).status
    for status in (suspended, JobStatus()):
        assert decide(replace(CANCELLED, suspend=True), status).status.phase == "Cancelled"


def test_cancelling_changes_nothing_about_a_job_that_has_ended():
    status, views = complete()
    assert decide(CANCELLED, status, *views).status == status


def test_a_cancelled_job_stays_so_when_the_wish_is_taken_back():
    status = decide(CANCELLED, training(), done("preprocess"), busy("train")).status
    assert decide(JOB, status, done("preprocess")).status.phase == "Cancelled"


def test_a_job_is_not_removed_while_its_pods_still_save():
    job = replace(CANCELLED, ttl_seconds=0)
    status = decide(job, training(), done("preprocess"), busy("train")).status
    saving = AttemptView("train", 1, pods=(BUSY,), has_main=False, deleting=True)
    assert decide(job, status, saving).actions == ()
    assert decide(job, status).actions == (Remove(),)


@pytest.mark.parametrize(
    ("stage", "states"),
    [
        ("preprocess", ["Running", "Pending", "Pending"]),
        ("train", ["Succeeded", "Running", "Pending"]),
        ("merge", ["Succeeded", "Succeeded", "Running"]),
        ("export", ["Succeeded", "Succeeded", "Succeeded"]),
    ],
)
def test_a_complete_job_runs_again_from_a_stage_as_new_attempts(stage, states):
    status, _ = complete()
    decision = decide(replace(JOB, rerun_from=stage, rerun_number=1), status)
    assert [s.state for s in decision.status.stages] == states
    expected = (Create(stage, 2),) if "Running" in states else ()
    assert decision.actions == expected


def test_finished_objects_of_the_stages_that_run_again_go_first():
    status, views = complete()
    decision = decide(replace(JOB, rerun_from="train", rerun_number=1), status, *views)
    assert decision.actions == (Delete("train", 1), Delete("merge", 1))


def test_a_request_to_run_again_is_taken_up_once():
    job = replace(JOB, rerun_from="merge", rerun_number=4)
    first = decide(job, complete()[0]).status
    again = decide(job, first, done("merge", 2)).status
    assert (again.phase, again.stage("merge").attempt) == ("Complete", 2)
    assert decide(job, again, done("merge", 2), now=99).status == again
    assert decide(replace(job, rerun_number=5), again).actions == (Create("merge", 3),)


def test_a_failed_job_runs_again_with_a_fresh_budget():
    job = replace(JOB, restart_limit=0)
    status = decide(job, JobStatus()).status
    broken = PodView("p", "u", "0", "Failed", exit_code=3)
    status = decide(job, status, AttemptView("preprocess", 1, pods=(broken,), failed=True)).status
    assert status.phase == "Failed"
    again = decide(replace(job, rerun_from="preprocess", rerun_number=1), status)
    assert (again.status.charges, again.actions) == ((), (Create("preprocess", 2),))


def test_a_cancelled_job_runs_again_once_the_wish_is_taken_back():
    status = decide(CANCELLED, training(), done("preprocess"), busy("train")).status
    again = replace(JOB, rerun_from="train", rerun_number=1)
    assert decide(again, status, done("preprocess")).actions == (Create("train", 2),)
    assert decide(replace(again, cancel=True), status).status.phase == "Cancelled"


def test_a_running_attempt_of_a_stage_that_runs_again_is_stopped_and_an_earlier_one_is_not():
    views = (done("preprocess"), busy("train"))
    stopped = decide(replace(JOB, rerun_from="train", rerun_number=1), training(), *views)
    assert stopped.actions == (Delete("train", 1),)
    assert stopped.status.history[-1].cause == "Rerun"
    assert not stopped.status.charges
    kept = decide(replace(JOB, rerun_from="merge", rerun_number=1), training(), *views)
    assert kept.status.attempt.stage == "train"
    assert kept.actions == ()
