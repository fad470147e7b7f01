"""Failures of training from one checkpoint are counted, and after three of them it is over."""

import json

import pytest

from pangu_core.checkpoint import setbacks
from pangu_core.checkpoint.manifest import Layout
from pangu_core.checkpoint.setbacks import Origin
from pangu_core.checkpoint.store import Store
from pangu_core.errors import CheckpointError

ORIGIN = Origin("step-00000300", "0" * 64, "1" * 64)


def fail(root, origin=ORIGIN, attempts=(1, 2, 3)):
    for attempt in attempts:
        setbacks.record(root, origin, attempt=attempt, error=f"loss nan in attempt {attempt}")


def test_the_diagnosis_names_checkpoint_attempts_error_and_what_to_do(tmp_path):
    fail(tmp_path)
    with pytest.raises(CheckpointError) as raised:
        setbacks.refuse_loop(tmp_path, ORIGIN)
    assert str(raised.value) == (
        f"{tmp_path}/step-00000300: 3 attempts to train from it failed, the last with: "
        "loss nan in attempt 3: training must get from one checkpoint to the next; delete this "
        "folder to go back to the checkpoint before, or lower train.optimizer.learningRate"
    )


@pytest.mark.parametrize("attempts", [(), (1,), (1, 2), (1, 2, 2, 1)])
def test_fewer_failures_are_borne_and_each_attempt_counts_once(tmp_path, attempts):
    fail(tmp_path, attempts=attempts)
    setbacks.refuse_loop(tmp_path, ORIGIN)


@pytest.mark.parametrize(
    "other",
    [
        Origin("step-00000200", ORIGIN.manifest_sha256, ORIGIN.settings),
        Origin(ORIGIN.checkpoint, "2" * 64, ORIGIN.settings),
        Origin(ORIGIN.checkpoint, ORIGIN.manifest_sha256, "2" * 64),
    ],
    ids=["another checkpoint", "the same step saved again", "other settings"],
)
def test_another_origin_begins_at_nought(tmp_path, other):
    fail(tmp_path)
    setbacks.refuse_loop(tmp_path, other)
    fail(tmp_path, other, attempts=(4, 5))
    setbacks.refuse_loop(tmp_path, other)
    setbacks.refuse_loop(tmp_path, ORIGIN)


def test_settings_are_told_apart_by_their_values_alone(tmp_path):
    first = Origin.of(tmp_path, "0" * 64, settings={"rate": 0.1, "beta": 0.9})
    assert first == Origin.of(tmp_path, "0" * 64, settings={"beta": 0.9, "rate": 0.1})
    assert first != Origin.of(tmp_path, "0" * 64, settings={"beta": 0.9, "rate": 0.05})


def test_a_commit_forgets(tmp_path, small):
    fail(tmp_path)
    Store(tmp_path).save(301, small.pieces(small.tensors(), Layout()), small.header())
    assert not (tmp_path / setbacks.FILE_NAME).exists()
    setbacks.refuse_loop(tmp_path, ORIGIN)


@pytest.mark.parametrize("content", ["", "[]", "{", json.dumps({"checkpoint": 1})])
def test_a_damaged_record_counts_for_nothing(tmp_path, content, caplog):
    (tmp_path / setbacks.FILE_NAME).write_text(content)
    setbacks.refuse_loop(tmp_path, ORIGIN)
    assert "failures.json counts for nothing" in caplog.text
    fail(tmp_path)
    with pytest.raises(CheckpointError):
        setbacks.refuse_loop(tmp_path, ORIGIN)
