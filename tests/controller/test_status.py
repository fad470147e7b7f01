"""A job's status: what is changed in it, and what a second start keeps of it."""

from dataclasses import replace

from controller.status import HISTORY_LIMIT, reopened, with_condition, with_history
from k8s.status import Attempt, JobStatus, PastAttempt, StageStatus

PAST = PastAttempt("train", 1, "Failed", "Error", charged=True, created_at=10, ended_at=20)
DONE = StageStatus("preprocess", "Succeeded", attempt=1, settings_hash="p")
FAILED = StageStatus("train", "Failed", attempt=3, settings_hash="t")


def test_history_is_bounded():
    status = JobStatus()
    for number in range(HISTORY_LIMIT + 5):
        status = with_history(status, replace(PAST, number=number))
    assert [p.number for p in status.history] == list(range(5, HISTORY_LIMIT + 5))


def test_a_condition_keeps_its_time_until_it_flips():
    status = JobStatus()
    for now, truth in ((1, "True"), (2, "True"), (3, "False")):
        status = with_condition(status, "Running", truth, reason="R", message="", now=now)
        assert status.condition("Running").last_transition_time == (3 if now == 3 else 1)
    assert len(status.conditions) == 1


def test_a_second_start_looks_at_every_stage_and_counts_attempts_on():
    status = JobStatus(
        "Failed", stages=(DONE, FAILED), charges=(1, 2), exit_code=3, history=(PAST,)
    )
    again = reopened(status, {"preprocess": "p", "train": "t"}, kept=("train",))
    assert (again.phase, again.charges, again.exit_code) == ("Pending", (), None)
    assert again.stages == (StageStatus("preprocess", attempt=1), StageStatus("train", attempt=3))
    assert again.history == (PAST,)


def test_kept_training_stays_done_until_its_settings_or_those_before_it_change():
    done = replace(FAILED, state="Succeeded")
    status = JobStatus("Complete", stages=(DONE, done), exit_code=0)
    same = {"preprocess": "p", "train": "t"}
    assert reopened(status, same, kept=("train",)).stage("train") == done
    assert reopened(status, same).stage("train").state == "Pending"
    for other in ({**same, "preprocess": "other"}, {**same, "train": "other"}):
        assert reopened(status, other, kept=("train",)).stage("train").state == "Pending"


def test_an_attempt_of_the_last_start_is_gone_with_it():
    status = JobStatus(attempt=Attempt("train", 3, created_at=0))
    assert reopened(status, {"train": "t"}).attempt.seen
