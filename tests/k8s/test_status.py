"""A job's status in its stored form."""

from pathlib import Path

import jsonschema
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from k8s.status import (
    Attempt,
    Condition,
    JobStatus,
    PastAttempt,
    PodExit,
    ProgressStatus,
    StageStatus,
    Summary,
    from_dict,
    to_dict,
)

CRD = yaml.safe_load((Path(__file__).parents[2] / "k8s/crds/pangujobs.yaml").read_text("utf-8"))
SCHEMA = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
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
    progress=st.none() | st.builds(ProgressStatus, words, st.integers(0), st.integers(0), times,
        st.none() | st.floats(allow_nan=False, allow_infinity=False)),
    summary=st.none() | st.builds(Summary, words),
    conditions=st.tuples(st.builds(Condition, words, st.just("True"), words, words, times,
        st.integers(0))),
    retry_at=st.none() | times,
)  # fmt: skip


@given(statuses)
def test_a_status_comes_back_from_its_stored_form(status):
    assert from_dict(to_dict(status)) == status


@settings(deadline=None)
@given(statuses)
def test_every_status_fits_the_definition(status):
    jsonschema.Draft4Validator(SCHEMA).validate(to_dict(status))


def test_the_stored_form_is_that_of_the_api_server():
    past = PastAttempt("train", 1, "Failed", "Error", charged=True, created_at=10, ended_at=20)
    status = JobStatus(retry_at=1_767_225_600, history=(past,))
    stored = to_dict(status)
    assert stored["retryAt"] == "2026-01-01T00:00:00Z"
    assert stored["history"][0]["createdAt"] == "1970-01-01T00:00:10Z"
    assert "completedAt" not in stored


def test_keys_of_a_newer_version_are_dropped():
    assert from_dict({"phase": "Running", "fromTheFuture": 1}) == JobStatus(phase="Running")


def test_a_loss_that_json_has_no_word_for_is_none():
    progress = ProgressStatus("step", 1, 2, 3, loss=float("nan"), tokens_per_second=5.0)
    stored = to_dict(JobStatus(progress=progress))["progress"]
    assert (stored["loss"], stored["tokensPerSecond"]) == (None, 5.0)
