"""Training that saves in the background: stops, ends, failures, and checkpoints that are no good."""

import json
import logging
import os
import shutil
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch

from pangu_core.checkpoint import saver
from pangu_core.checkpoint.reader import Checkpoint
from pangu_core.checkpoint.store import Store, find_checkpoint
from pangu_core.checkpoint.writer import Piece, write_shard
from pangu_core.config.stages import TrainConfig
from pangu_core.data.token_files import TokenFileWriter
from pangu_core.dist import topology
from pangu_core.errors import (
    EXIT_COMPLETE,
    EXIT_STOPPED,
    CheckpointError,
    PanguError,
    TrainingError,
)
from pangu_core.layout import whole
from pangu_core.training.heartbeat import Heartbeat
from pangu_core.training.loop import Loop
from pangu_core.training.session import Session
from pangu_core.training.signals import StopRequests

pytestmark = pytest.mark.parallel

STEPS, LENGTH = 12, 8
SLOW_SECONDS = 0.4  # many steps of this network


class StoppingHeartbeat(Heartbeat):
    """Asks for a stop when a step is reached, as a signal would."""

    def __init__(self, stop, at):
        super().__init__(STEPS)
        self.stop, self.at = stop, at

    def beat(self, phase, **values):
        super().beat(phase, **values)
        self.stop.must_go = self.stop.must_go or (phase == "step" and values["step"] == self.at)


def slow_write(folder, rank, pieces, tally):
    time.sleep(SLOW_SECONDS)
    return write_shard(folder, rank, pieces, tally)


def full_volume_on_rank_1(folder, rank, pieces, tally):
    if rank == 1:
        raise OSError(28, "No space left on device", str(folder))
    return write_shard(folder, rank, pieces, tally)


def train(workspace, write, settings=None, stop_at=None, attempt=1):
    """One round on this rank: its exit code or error, and what was logged."""
    settings = dict(settings or {})
    os.environ["PANGU_WORKSPACE"] = workspace
    world = int(os.environ["WORLD_SIZE"])
    config = TrainConfig.model_validate(
        {
            "run": {"name": "r", "uid": "u", "attempt": attempt},
            "model": {
                "numLayers": 2, "hiddenSize": 16, "numHeads": 4,
                "vocabSize": 50, "sequenceLength": LENGTH,
            },
            "tokenFiles": "tokens",
            "tokenizer": "vocab.model",
            "data": {"split": settings.pop("split", "100,0,0")},
            "train": {
                "steps": STEPS, "globalBatchSize": 2, "microBatchSize": 1, "precision": "fp32",
                "attentionDropout": 0.0, "hiddenDropout": 0.0, "logEverySteps": 1,
                "nodes": {"min": world, "max": world}, "optimizer": {"learningRate": 0.01},
                "maxSkippedSteps": 2, "evaluate": {"everySteps": 4, "batches": 1},
                "checkpoint": {"everySteps": 4, "keep": 9} | settings,
            },
        }
    )  # fmt: skip
    stop, messages = StopRequests(), Messages()
    heartbeat = StoppingHeartbeat(stop, stop_at)
    logging.getLogger().addHandler(messages)
    try:
        with patch.object(saver, "write_shard", write):
            session = Session.open(config, topology(1))
            return Loop(session, stop=stop, heartbeat=heartbeat).run().code, messages.texts
    except PanguError as error:
        return error, messages.texts
    finally:
        logging.getLogger().removeHandler(messages)


class Messages(logging.Handler):
    """Collects what is logged."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.texts = []

    def emit(self, record):
        self.texts.append(record.getMessage())


@pytest.fixture
def workspace(tmp_path):
    return make_workspace(tmp_path)


def make_workspace(folder):
    folder.mkdir(exist_ok=True)
    with TokenFileWriter(folder / "tokens", vocab_size=50) as writer:
        for seed in range(4):
            draw = np.random.default_rng(seed)
            writer.add([int(t) for t in draw.integers(10, 50, 30 * LENGTH)])
            writer.end_document()
    (folder / "vocab.model").write_bytes(b"stands for a vocabulary")
    return str(folder)


def store_of(workspace):
    return Store(Path(workspace) / "runs/r/checkpoints")


def saved_steps(workspace):
    return sorted(Checkpoint.open(f).manifest.step for f in store_of(workspace).candidates())


def events(workspace, kind):
    lines = (Path(workspace) / "runs/r/metrics.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def tensors(folder):
    checkpoint = Checkpoint.open(folder)
    return {s.key: checkpoint.read(s.key, whole(s.shape)) for s in checkpoint.manifest.slices}


def test_steps_go_on_while_a_checkpoint_is_written(ranks, workspace):
    settings = {"everySteps": 2}
    replies = ranks.run(2, train, workspace, slow_write, settings, 5)
    assert [reply[0] for reply in replies] == [EXIT_STOPPED] * 2
    assert saved_steps(workspace) == [2, 4, 5]
    first, *_ = events(workspace, "save")
    third = next(e for e in events(workspace, "step") if e["step"] == 3)
    assert third["time"] < first["time"]
    assert 0 < first["stall_seconds"] < SLOW_SECONDS < first["seconds"]


def test_a_save_that_meets_the_next_one_is_finished_first_and_named_once(ranks, workspace):
    code, messages = ranks.run(1, train, workspace, slow_write, {"everySteps": 1}, 4)[0]
    assert code == EXIT_STOPPED
    assert saved_steps(workspace) == [1, 2, 3, 4]
    assert [m for m in messages if "longer than the 1 steps to the next one" in m] == messages


@pytest.mark.parametrize(("stop_at", "steps"), [(4, [4]), (6, [4, 6])])
def test_a_stop_finishes_the_save_under_way_and_saves_the_present(ranks, workspace, stop_at, steps):
    replies = ranks.run(2, train, workspace, slow_write, {}, stop_at)
    assert [reply[0] for reply in replies] == [EXIT_STOPPED] * 2
    assert saved_steps(workspace) == steps


def test_the_end_finishes_the_save_under_way(ranks, workspace):
    replies = ranks.run(2, train, workspace, slow_write, {"everySteps": 11})
    assert [reply[0] for reply in replies] == [EXIT_COMPLETE] * 2
    assert saved_steps(workspace) == [11, 12]
    final = Checkpoint.open(find_checkpoint(store_of(workspace).root)).manifest
    assert (final.step, final.final) == (12, True)
    assert [e["step"] for e in events(workspace, "save")] == [11, 12]


def test_a_full_volume_at_one_rank_ends_training_on_all(ranks, workspace):
    replies = ranks.run(2, train, workspace, full_volume_on_rank_1)
    assert ["No space left on device" in str(reply[0]) for reply in replies] == [True, True]
    assert saved_steps(workspace) == []
    assert not list(store_of(workspace).root.glob("tmp-*"))


def test_checkpoints_are_the_same_bits_with_and_without_waiting(ranks, tmp_path):
    found = []
    for asynchronous in (True, False):
        workspace = make_workspace(tmp_path / str(asynchronous))
        settings = {"asynchronous": asynchronous}
        ranks.run(2, train, workspace, write_shard, settings)
        found.append({f.name: tensors(f) for f in store_of(workspace).candidates()})
    assert list(found[0]) == ["step-00000012", "step-00000008", "step-00000004"]
    for name, values in found[0].items():
        assert all(torch.equal(values[key], found[1][name][key]) for key in values)


def test_the_best_checkpoints_are_known_by_their_validation_loss(ranks, workspace):
    settings = {"split": "75,25,0", "keep": 1, "keepBest": 1, "everySteps": 2}
    ranks.run(1, train, workspace, write_shard, settings)
    manifests = [Checkpoint.open(f).manifest for f in store_of(workspace).candidates()]
    losses = {e["step"]: e["validation_loss"] for e in events(workspace, "evaluate")}
    best = min(losses, key=lambda step: losses[step])
    assert {m.step for m in manifests} == {STEPS, best}
    assert {m.step: m.validation_loss for m in manifests}[best] == losses[best]


def poison(workspace):
    """Replace the newest checkpoint by one from which no finite loss can come."""
    folder = find_checkpoint(store_of(workspace).root)
    manifest, values = Checkpoint.open(folder).manifest, tensors(folder)
    values["model/ln_f.weight"].fill_(float("nan"))
    pieces = [Piece(k, tuple(t.shape), whole(tuple(t.shape)), t) for k, t in values.items()]
    store = Store(folder.parent, fence=folder.parents[1])
    vocabulary = Path(workspace) / "vocab.model"
    return store.save(manifest.step, pieces, manifest.header, vocabulary=vocabulary).folder


def test_a_loop_of_restarts_from_a_bad_checkpoint_stops_with_a_diagnosis(ranks, workspace):
    ranks.run(1, train, workspace, write_shard, {}, 8)
    bad = poison(workspace)
    errors = [
        ranks.run(2, train, workspace, write_shard, None, None, attempt)[0][0]
        for attempt in (2, 3, 4, 5, 6)
    ]
    assert [type(error) for error in errors] == [TrainingError] * 3 + [CheckpointError] * 2
    diagnosis = str(errors[3])
    assert "3 attempts to train from it failed, the last with: step 10: loss nan" in diagnosis
    assert "delete this folder to go back to the checkpoint before" in diagnosis
    assert str(errors[4]) == diagnosis  # the same words: the job ends at the second time
    shutil.rmtree(bad)
    replies = ranks.run(2, train, workspace, write_shard, None, None, 7)
    assert [reply[0] for reply in replies] == [EXIT_COMPLETE] * 2
    assert not list(store_of(workspace).root.glob("failures*"))
