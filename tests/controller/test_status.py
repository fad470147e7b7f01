"""A job's status: its stored form, its bounds, and what a second start keeps of it."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from controller.status import HISTORY_LIMIT, reopened, with_condition, with_history
from k8s.status import (
    Attempt,
    JobStatus,
    PastAttempt,
    PodExit,
    ProgressStatus,
    StageStatus,
    from_dict,
    to_dict,
)

PAST = PastAttempt("train", 1, "Failed", "Error", charged=True, created_at=10, ended_at=20)
DONE = StageStatus("preprocess", "Succeeded", attempt=1, settings_hash="p")
FAILED = StageStatus("train", "Failed", attempt=3, settings_hash="t")
times = st.integers(0, 2**33)
words = st.text(max_size=9)
statuses = st.builds(
    JobStatus,
    stages=st.lists(st.builds(StageStatus, words, output=words), max_size=3).map(tuple),
    attempt=st.none() | st.builds(Attempt, words, st.integers(1, 99), times, exits=st.tuples(
        st.builds(PodExit, words, st.integers(0, 255)))),
    history=st.lists(st.builds(PastAttempt, words, st.integers(1, 9), st.just("Failed"), words,
        st.booleans(), times, times), max_size=3).map(tuple),
    charges=st.lists(times, max_size=3).map(tuple),
    restarts=st.dictionaries(words, st.integers(1, 9), max_size=3),
    progress=st.none() | st.builds(ProgressStatus, words, st.integers(0), st.integers(0), times),
    retry_at=st.none() | times,
)  # fmt: skip


@given(statuses)
def test_a_status_comes_back_from_its_stored_form(status):
    assert from_dict(to_dict(status)) == status


def test_the_stored_form_is_that_of_the_api_server():
    status = with_history(JobStatus(retry_at=1_767_225_600), PAST)
    stored = to_dict(status)
    assert stored["retryAt"] == "2026-01-01T00:00:00Z"
    assert stored["history"][0]["createdAt"] == "1970-01-01T00:00:10Z"
    assert "completedAt" not in stored


def test_keys_of_a_newer_version_are_dropped():
    assert from_dict({"phase": "Running", "fromTheFuture": 1}) == JobStatus(phase="Running")


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
