"""What follows from a step that was skipped, and how samples at fault are named."""

import json
import math

import pytest

from pangu_core.checkpoint.manifest import FILE_NAME, Layout, LossScaleState, parse
from pangu_core.checkpoint.store import Store
from pangu_core.config.train import LossScaleConfig, TrainSettings
from pangu_core.training.diagnosis import Fault, describe
from pangu_core.training.loss_scale import LossScale
from pangu_core.training.skipping import Patience
from pangu_core.training.state import Position
from pangu_core.training.step import StepResult

APPLIED = StepResult(2.0, 1.0)
OVERFLOW = StepResult(2.0, math.nan, is_applied=False)
BAD_LOSS = StepResult(math.nan, math.nan, is_applied=False)
SETTINGS = TrainSettings(
    steps=9,
    global_batch_size=4,
    max_skipped_steps=2,
    loss_scale=LossScaleConfig(initial=4.0, minimum=2.0, hysteresis=1),
)
FIRST, LAST = LossScale(4.0, 0, 1), LossScale(2.0, 0, 0)


def after(position: Position, result: StepResult) -> Position:
    return position.after(result, num_samples=4, settings=SETTINGS.loss_scale)


def test_a_skipped_step_counts_as_a_step_but_not_as_an_update():
    position = after(after(Position(), APPLIED), BAD_LOSS)
    assert (position.step, position.samples, position.updates) == (2, 8, 1)


def test_a_loss_that_is_not_finite_leaves_the_scale_alone():
    assert after(Position(loss_scale=FIRST), OVERFLOW).loss_scale == LAST
    assert after(Position(loss_scale=FIRST), BAD_LOSS).loss_scale == FIRST


@pytest.mark.parametrize(
    ("results", "scale", "is_over"),
    [
        ([OVERFLOW, OVERFLOW], None, True),
        ([BAD_LOSS, APPLIED, BAD_LOSS], None, False),
        ([OVERFLOW] * 9, FIRST, False),
        ([BAD_LOSS, OVERFLOW, BAD_LOSS], FIRST, True),
        ([OVERFLOW], LAST, True),
        ([BAD_LOSS], LAST, False),
    ],
)
def test_patience_is_over_after(results, scale, is_over):
    patience = Patience(SETTINGS)
    assert [patience.is_over(result, scale) for result in results][-1] is is_over


def test_faults_are_named_by_global_sample_and_id():
    faults = [Fault(3, "loss", (1,), (17,)), Fault(5, "gradient", (0, 1), (40, 8))]
    assert describe(faults, first_sample=100, micro_batch_size=2) == (
        "micro-batch 3 (loss): samples 107 (ids 17); "
        "micro-batch 5 (gradient): samples 110 to 111 (ids 40, 8)"
    )


def test_no_more_faults_are_named_than_fit_a_message():
    faults = [Fault(number, "loss", (0,), (number,)) for number in range(9)]
    text = describe(faults, first_sample=0, micro_batch_size=1)
    assert text.startswith("9 micro-batches, first micro-batch 0 (loss)")
    assert text.endswith("micro-batch 1 (loss): samples 1 (ids 1)")


def save(small, folder, **header) -> bytes:
    """The manifest of a checkpoint saved with this header."""
    pieces = small.pieces(small.tensors(), Layout())
    return (Store(folder).save(3, pieces, small.header(**header)).folder / FILE_NAME).read_bytes()


def test_a_manifest_from_before_there_were_skipped_steps_is_read(small, tmp_path):
    values = json.loads(save(small, tmp_path))
    for name in ("skipped", "loss_scale", "sha256"):
        del values[name]
    manifest = parse(json.dumps(values).encode(), "old")
    assert (manifest.skipped, manifest.loss_scale) == (0, None)


def test_the_scale_is_written_into_the_manifest_and_read_back(small, tmp_path):
    data = save(small, tmp_path, skipped=2, loss_scale=LossScale(0.1, 7, 1))
    manifest = parse(data, "new")
    assert (manifest.skipped, manifest.loss_scale) == (2, LossScaleState(0.1, 7, 1))
