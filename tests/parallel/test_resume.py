"""Stopping and going on changes nothing, at the same number of ranks and at any other."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from pangu_core.checkpoint.reader import Checkpoint
from pangu_core.checkpoint.store import find_checkpoint
from pangu_core.config.stages import TrainConfig
from pangu_core.data.token_files import TokenFileWriter
from pangu_core.dist import topology
from pangu_core.errors import EXIT_COMPLETE, EXIT_STOPPED
from pangu_core.layout import whole
from pangu_core.training.feed import Feed
from pangu_core.training.heartbeat import Heartbeat
from pangu_core.training.loop import Loop
from pangu_core.training.session import Session
from pangu_core.training.signals import StopRequests

pytestmark = pytest.mark.parallel

STEPS, BATCH, LENGTH = 20, 6, 8
# 70 samples an epoch and 6 a step: the second epoch begins within step 12.
TOKENS = 70 * LENGTH + 2


class RecordingFeed(Feed):
    """Remembers which samples were trained on."""

    def training_batches(self, samples, dp):
        batches = super().training_batches(samples, dp)
        seen = [int(i) for _, batch in batches for i in batch.sample_ids if i >= 0]
        self.__dict__.setdefault("seen", []).append((samples // BATCH, seen))
        return batches


class StoppingHeartbeat(Heartbeat):
    """Asks for a stop when a step is reached, as a signal would."""

    def __init__(self, stop, at):
        super().__init__(STEPS)
        self.stop, self.at, self.losses = stop, at, {}

    def beat(self, phase, **values):
        if phase == "step":
            self.losses[values["step"]] = values["loss"]
            self.stop.must_go = self.stop.must_go or values["step"] == self.at


def train(
    workspace: str,
    tp: int,
    attempt: int,
    stop_at: int | None = None,
    dropout: float = 0.0,
    steps: int = STEPS,
):
    """One round on this rank: exit code, losses by step, sample ids by step."""
    os.environ["PANGU_WORKSPACE"] = workspace
    config = TrainConfig.model_validate(
        {
            "run": {"name": "r", "uid": "u", "attempt": attempt},
            "model": {
                "numLayers": 2, "hiddenSize": 16, "numHeads": 4,
                "vocabSize": 50, "sequenceLength": LENGTH,
            },
            "tokenFiles": "tokens",
            "tokenizer": "vocab.model",
            "data": {"split": "100,0,0"},
            "train": {
                "steps": steps, "globalBatchSize": BATCH, "microBatchSize": 2,
                "tensorParallel": tp, "precision": "fp32", "logEverySteps": 1,
                "attentionDropout": dropout, "hiddenDropout": dropout,
                "nodes": {"min": tp, "max": tp},
                "optimizer": {"learningRate": 0.01},
            },
        }
    )  # fmt: skip
    stop = StopRequests()
    session = Session.open(config, topology(tp))
    feed = RecordingFeed(**vars(session.feed))
    heartbeat = StoppingHeartbeat(stop, stop_at)
    outcome = Loop(dataclasses.replace(session, feed=feed), stop=stop, heartbeat=heartbeat).run()
    return outcome.code, heartbeat.losses, feed.seen


def make_workspace(folder: Path) -> str:
    draw = np.random.default_rng(5)
    with TokenFileWriter(folder / "tokens", vocab_size=50) as writer:
        writer.add([int(t) for t in draw.integers(10, 50, TOKENS)])
        writer.end_document()
    (folder / "vocab.model").write_bytes(b"stands for a vocabulary")
    return str(folder)


@pytest.fixture
def workspace(tmp_path: Path) -> str:
    return make_workspace(tmp_path)


@pytest.fixture(scope="module")
def undisturbed(ranks, tmp_path_factory):
    """20 steps in one go on one rank: losses, samples by step, stored tensors."""
    folder = make_workspace(tmp_path_factory.mktemp("undisturbed"))
    replies = ranks.run(1, train, folder, 1, 1)
    return replies[0][1], samples_by_step(replies), stored(folder)


def stored(workspace: str) -> dict[str, np.ndarray]:
    """Every tensor of the newest checkpoint, whole."""
    checkpoint = Checkpoint.open(find_checkpoint(Path(workspace) / "runs/r/checkpoints"))
    shapes = {s.key: s.shape for s in checkpoint.manifest.slices}
    return {key: checkpoint.read(key, whole(shape)).numpy() for key, shape in shapes.items()}


def samples_by_step(replies) -> dict[int, list[int]]:
    """The samples of each step that was done; tensor ranks of one group see the same ones."""
    steps: dict[int, set[int]] = {}
    for _, losses, seen in replies:
        for step, ids in seen:
            if step + 1 in losses:
                steps.setdefault(step, set()).update(ids)
    return {step: sorted(ids) for step, ids in steps.items()}


def test_stopping_after_ten_steps_and_going_on_is_bitwise_the_same(ranks, workspace, undisturbed):
    assert ranks.run(1, train, workspace, 1, 1, 10)[0][0] == EXIT_STOPPED
    code, losses, _ = ranks.run(1, train, workspace, 1, 2)[0]
    assert code == EXIT_COMPLETE
    assert losses == {step: undisturbed[0][step] for step in range(11, 21)}
    for key, value in stored(workspace).items():
        np.testing.assert_array_equal(value, undisturbed[2][key], err_msg=key)


def test_stopping_inside_the_second_epoch_changes_nothing(ranks, workspace, undisturbed):
    """The 70 samples of an epoch end within step 12; the run stops at 14."""
    ranks.run(2, train, workspace, 2, 1, 14)
    replies = ranks.run(2, train, workspace, 2, 2)
    assert min(replies[0][1]) == 15
    assert samples_by_step(replies).items() <= undisturbed[1].items()
    assert max(max(ids) for ids in undisturbed[1].values()) >= 70


def test_a_walk_over_worlds_sees_the_same_samples_and_losses(ranks, workspace, undisturbed):
    """4 ranks, then 2, 6 and 3: each round loads what the one before saved."""
    losses, samples = {}, {}
    walk = [(4, 2, 5), (2, 1, 10), (6, 2, 15), (3, 1, None)]
    for attempt, (world, tp, stop_at) in enumerate(walk, start=1):
        replies = ranks.run(world, train, workspace, tp, attempt, stop_at)
        losses |= replies[0][1]
        samples |= samples_by_step(replies)
    assert samples == undisturbed[1]
    assert losses == pytest.approx(undisturbed[0], abs=1e-4)


def test_dropout_is_the_same_for_any_number_of_data_ranks(ranks, tmp_path_factory, undisturbed):
    losses = []
    for dp in (1, 2, 3):
        folder = make_workspace(tmp_path_factory.mktemp("dropout"))
        losses.append(ranks.run(dp, train, folder, 1, 1, 6, 0.2)[0][1])
    without = {step: undisturbed[0][step] for step in losses[0]}
    assert losses[0] != pytest.approx(without, abs=1e-3)
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert losses[2] == pytest.approx(losses[0], abs=1e-5)


def test_a_run_does_not_go_on_with_other_text(ranks, workspace):
    ranks.run(1, train, workspace, 1, 1, 3)
    with TokenFileWriter(Path(workspace) / "tokens", vocab_size=50) as writer:
        writer.add([20] * (TOKENS + 1))
        writer.end_document()
    with pytest.raises(AssertionError, match="other text than this run was trained on"):
        ranks.run(1, train, workspace, 1, 2)


def test_a_run_does_not_go_back_to_a_step_behind_it(ranks, workspace):
    ranks.run(1, train, workspace, 1, 1, 8)
    with pytest.raises(AssertionError, match=r"train\.steps: 4: must not be below .* \(8\)"):
        ranks.run(1, train, workspace, 1, 2, None, 0.0, 4)
