"""Each rule of a job's life, one sentence a test."""

from dataclasses import replace

import pytest

from controller.actions import Create, Delete, Release
from controller.observe import AttemptView, JobView, Observed, PodView, StagePlan
from controller.reconcile import Decision, reconcile
from k8s.status import JobStatus, from_dict, to_dict
from pangu_core.messages import Progress, Termination

JOB = JobView("novel", "u-1", (StagePlan("preprocess"), StagePlan("train", needs_manifest=True)))
TRAIN_ONLY = replace(JOB, stages=JOB.stages[1:])
MANIFEST = Termination(code=0, output="runs/novel/checkpoints/step-9", manifest_sha256="ab")


def decide(job: JobView, status: JobStatus, *views: AttemptView, now: float) -> Decision:
    return reconcile(Observed(job, status, views), now)


def running(job: JobView, number: int = 1) -> JobStatus:
    """The status after a first attempt was created, and seen to run, at time 0."""
    status = decide(job, JobStatus(), now=0).status
    stage = job.stages[0].name
    return decide(job, status, view(stage, number, pod("a")), now=0).status


def view(stage: str, number: int, *pods: PodView, **other: object) -> AttemptView:
    return AttemptView(stage, number, pods=pods, **other)


def pod(uid: str, code: int | None = None, **other: object) -> PodView:
    phase = "Running" if code is None else "Failed" if code else "Succeeded"
    return PodView(f"pod-{uid}", uid, "0", phase, exit_code=code, **other)


def test_the_first_stage_is_created_first():
    decision = decide(JOB, JobStatus(), now=5)
    assert decision.actions == (Create("preprocess", 1),)
    assert decision.status.stage("preprocess").state == "Running"
    assert decision.status.stage("train").state == "Pending"


def test_a_create_that_was_not_seen_is_asked_for_again():
    status = decide(JOB, JobStatus(), now=5).status
    assert decide(JOB, status, now=6).actions == (Create("preprocess", 1),)


def test_an_attempt_that_was_seen_is_never_created_again():
    status = running(JOB)
    assert decide(JOB, status, view("preprocess", 1, pod("a")), now=9).actions == ()


def test_a_stage_that_ends_well_starts_the_next():
    decision = decide(JOB, running(JOB), view("preprocess", 1, pod("a", 0), succeeded=True), now=9)
    assert decision.actions == (Create("train", 1),)
    assert decision.status.stage("preprocess").state == "Succeeded"


def test_a_stage_whose_output_was_there_is_skipped():
    done = pod("a", 0, termination=Termination(code=0, skipped=True))
    decision = decide(JOB, running(JOB), view("preprocess", 1, done), now=9)
    assert decision.status.stage("preprocess").state == "Skipped"


def test_training_succeeds_by_its_manifest():
    done = view("train", 1, pod("a", 0, termination=MANIFEST), succeeded=True, has_helpers=True)
    decision = decide(TRAIN_ONLY, running(TRAIN_ONLY), done, now=9)
    assert (decision.status.phase, decision.status.exit_code) == ("Complete", 0)
    assert decision.status.stage("train").manifest_sha256 == "ab"
    assert decision.actions == (Release("train", 1),)


def test_a_pytorchjob_that_succeeded_without_a_manifest_failed():
    status = running(TRAIN_ONLY)
    done = view("train", 1, pod("a", 0, termination=Termination(code=0)), succeeded=True)
    decision = decide(TRAIN_ONLY, status, done, now=9)
    assert decision.status.history[-1].cause == "NoManifest"
    assert decision.actions == (Delete("train", 1),)
    assert len(decision.status.charges) == 1


def test_a_wrong_configuration_ends_the_job_at_once():
    wrong = pod("a", 2, termination=Termination(code=2, error="ConfigError", message="bad"))
    decision = decide(JOB, running(JOB), view("preprocess", 1, wrong, failed=True), now=9)
    assert (decision.status.phase, decision.status.exit_code) == ("Failed", 2)
    assert decision.actions == ()
    assert decision.status.condition("Failed").reason == "ConfigError"


@pytest.mark.parametrize("code", [1, 3, 7, 127])
def test_a_code_up_to_127_ends_the_attempt_and_is_charged(code):
    decision = decide(JOB, running(JOB), view("preprocess", 1, pod("a", code)), now=100)
    assert decision.actions == (Delete("preprocess", 1),)
    assert decision.status.charges == (100,)
    assert decision.status.phase == "Restarting"
    assert 107 <= decision.status.retry_at <= 113


@pytest.mark.parametrize(
    ("second", "phase"),
    [
        (Termination(code=3, error="DataError", message="no text", step=4), "Failed"),
        (Termination(code=3, error="DataError", message="no text", step=9), "Restarting"),
        (Termination(code=3, error="DataError", message="other", step=4), "Restarting"),
        (Termination(code=3, error="DataError", message="", step=4), "Restarting"),
    ],
)
def test_an_error_that_says_the_same_twice_without_a_new_step_is_not_tried_again(second, phase):
    first = Termination(code=3, error="DataError", message="no text", step=4)
    ended = view("preprocess", 1, pod("a", 3, termination=first))
    status = decide(JOB, decide(JOB, running(JOB), ended, now=100).status, now=200).status
    again = view("preprocess", 2, pod("b", 3, termination=second))
    assert decide(JOB, status, again, now=300).status.phase == phase


def test_the_next_attempt_waits_for_the_backoff_and_for_the_old_objects():
    status = decide(JOB, running(JOB), view("preprocess", 1, pod("a", 1)), now=100).status
    old = view("preprocess", 1, pod("a", 1), has_main=False, deleting=True)
    assert decide(JOB, status, now=101).actions == ()
    assert decide(JOB, status, old, now=200).actions == ()
    assert decide(JOB, status, now=200).actions == (Create("preprocess", 2),)


def test_the_wait_doubles_with_each_charge():
    status, waits = running(JOB), []
    for number in (1, 2, 3):
        failed = decide(JOB, status, view("preprocess", number, pod(f"p{number}", 1)), now=1000)
        waits.append(failed.status.retry_at - 1000)
        status = decide(JOB, failed.status, now=1100).status
    assert waits[0] * 1.5 < waits[1] * 1.2 < waits[2]


def test_the_budget_ends_the_job_with_the_code_of_the_last_failure():
    job = replace(JOB, restart_limit=0)
    decision = decide(job, running(job), view("preprocess", 1, pod("a", 3), failed=True), now=9)
    assert (decision.status.phase, decision.status.exit_code) == ("Failed", 3)


def test_charges_older_than_the_window_are_forgotten():
    job = replace(JOB, restart_limit=1)
    status = replace(running(job), charges=(0, 1))
    decision = decide(job, status, view("preprocess", 1, pod("a", 3)), now=5000)
    assert decision.status.charges == (5000,)
    assert decision.status.phase == "Restarting"


@pytest.mark.parametrize("code", [137, 139, 143, 201])
def test_a_code_of_128_and_above_replaces_the_pod_for_free(code):
    decision = decide(JOB, running(JOB), view("preprocess", 1, pod("a", code)), now=9)
    assert decision.actions == ()
    assert decision.status.charges == ()
    assert sum(decision.status.restarts.values()) == 1


def test_the_end_of_one_pod_is_counted_once():
    ended = view("preprocess", 1, pod("a", 143))
    first = decide(JOB, running(JOB), ended, now=9).status
    assert decide(JOB, first, ended, now=10).status == first


def test_an_oom_kill_is_charged():
    killed = pod("a", 137, reason="OOMKilled")
    decision = decide(JOB, running(JOB), view("preprocess", 1, killed), now=9)
    assert decision.status.charges == (9,)
    assert decision.status.restarts == {"OOMKilled": 1}


@pytest.mark.parametrize(("step", "charges"), [(5, 1), (6, 0)])
def test_a_code_repeated_without_a_new_step_is_charged(step, charges):
    first = pod("a", 139, termination=Termination(code=139, step=5))
    again = pod("b", 139, termination=Termination(code=139, step=step))
    status = decide(TRAIN_ONLY, running(TRAIN_ONLY), view("train", 1, first), now=9).status
    status = decide(TRAIN_ONLY, status, view("train", 1, again), now=10).status
    assert len(status.charges) == charges


def test_a_pod_that_is_replaced_for_ever_ends_the_job():
    status = running(JOB)
    for uid in range(10):
        decision = decide(JOB, status, view("preprocess", 1, pod(f"p{uid}", 139)), now=9)
        status = decision.status
        if status.is_terminal:
            break
    assert (uid, status.exit_code) == (6, 139)
    assert decision.actions == (Delete("preprocess", 1),)


def test_an_eviction_is_free_whatever_the_code():
    evicted = pod("a", 1, disrupted=True)
    decision = decide(JOB, running(JOB), view("preprocess", 1, evicted), now=9)
    assert decision.actions == (Delete("preprocess", 1),)
    assert decision.status.charges == ()
    assert decision.status.retry_at is None


def test_suspending_deletes_waits_and_says_so():
    job = replace(JOB, suspend=True)
    alive = view("preprocess", 1, pod("a"))
    first = decide(job, running(JOB), alive, now=9)
    assert first.actions == (Delete("preprocess", 1),)
    assert first.status.phase == "Suspending"
    assert decide(job, first.status, now=10).status.phase == "Suspended"


def test_resuming_starts_the_next_attempt_for_free():
    status = decide(replace(JOB, suspend=True), running(JOB), now=9).status
    decision = decide(JOB, status, now=10)
    assert decision.actions == (Create("preprocess", 2),)
    assert decision.status.charges == ()


def test_deleted_objects_mean_a_new_attempt_for_free():
    decision = decide(JOB, running(JOB), now=9)
    assert decision.actions == (Create("preprocess", 2),)
    assert decision.status.charges == ()


def test_an_attempt_nobody_remembers_is_deleted_and_waited_for():
    decision = decide(JOB, JobStatus(), view("preprocess", 1, pod("a")), now=9)
    assert decision.actions == (Delete("preprocess", 1),)


def test_a_gang_that_does_not_get_its_pods_gives_way_after_its_limit():
    job = replace(JOB, pending_seconds=60)
    waiting = view("preprocess", 1, PodView("p", "a", "0", "Pending"))
    status = decide(job, decide(job, JobStatus(), now=0).status, waiting, now=1)
    assert status.requeue_at == 11
    decision = decide(job, status.status, waiting, now=60)
    assert decision.actions == (Delete("preprocess", 1),)
    assert decision.status.charges == ()
    assert decision.status.retry_at > 60


def test_a_job_past_its_deadline_fails():
    job = replace(JOB, deadline_seconds=100)
    decision = decide(job, running(job), view("preprocess", 1, pod("a")), now=100)
    assert decision.status.condition("Failed").reason == "DeadlineExceeded"
    assert decision.actions == (Delete("preprocess", 1),)


def test_a_launcher_that_answers_with_an_old_step_costs_one_charged_restart():
    old = Progress(phase="step", step=7, steps=9, last_step_age_seconds=601)
    hung = view("train", 1, pod("a"), progress=old)
    decision = decide(TRAIN_ONLY, running(TRAIN_ONLY), hung, now=9)
    assert decision.actions == (Delete("train", 1),)
    assert decision.status.charges == (9,)
    assert decision.status.condition("Progressing").reason == "Hung"


def test_a_launcher_that_does_not_answer_is_left_alone():
    decision = decide(TRAIN_ONLY, running(TRAIN_ONLY), view("train", 1, pod("a")), now=9999)
    assert decision.actions == ()
    assert decision.status.condition("Progressing").status == "Unknown"


def test_progress_is_written_at_most_every_ten_seconds():
    def at(step: int) -> AttemptView:
        return view("train", 1, pod("a"), progress=Progress(phase="step", step=step, steps=9))

    status = decide(TRAIN_ONLY, running(TRAIN_ONLY), at(1), now=100).status
    assert decide(TRAIN_ONLY, status, at(2), now=105).status.progress.step == 1
    assert decide(TRAIN_ONLY, status, at(3), now=110).status.progress.step == 3


def test_a_straggler_of_a_successful_gang_is_deleted_after_its_grace():
    busy = view("train", 1, pod("a", 0, termination=MANIFEST), pod("b"))
    first = decide(TRAIN_ONLY, running(TRAIN_ONLY), busy, now=9)
    assert (first.status.phase, first.actions, first.requeue_at) == ("Complete", (), 129)
    assert decide(TRAIN_ONLY, first.status, busy, now=129).actions == (Delete("train", 1),)


def test_the_store_goes_only_after_the_pods_it_serves():
    job = replace(TRAIN_ONLY, suspend=True)
    saving = view("train", 1, pod("a"), has_main=False, deleting=True, has_helpers=True)
    first = decide(job, running(TRAIN_ONLY), saving, now=9)
    assert (first.actions, first.status.phase) == ((), "Suspending")
    second = decide(job, first.status, replace(saving, pods=()), now=10)
    assert second.actions == (Release("train", 1),)


def test_a_condition_moves_its_time_only_when_it_flips():
    alive = view("preprocess", 1, pod("a"))
    before = decide(JOB, running(JOB), alive, now=50).status.condition("Running")
    after = decide(JOB, running(JOB), alive, now=90).status.condition("Running")
    assert before == after
    assert after.last_transition_time == 0


def test_a_second_look_at_the_same_moment_changes_nothing():
    alive = view("preprocess", 1, pod("a"))
    first = decide(JOB, running(JOB), alive, now=9)
    second = decide(JOB, first.status, alive, now=9)
    assert second == first


def test_only_the_newest_ten_attempts_are_remembered():
    job = replace(JOB, restart_limit=50)
    status = running(job)
    for number in range(1, 15):
        status = decide(job, status, view("preprocess", number, pod("x", 1)), now=9).status
        status = decide(job, status, now=400).status
    assert [past.number for past in status.history] == list(range(5, 15))
    assert from_dict(to_dict(status)) == status
