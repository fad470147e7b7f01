"""Training whose checkpoints are copied elsewhere: a lost workspace costs one interval at most."""

import json
import os
import shutil
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from pangu_core.checkpoint import copier
from pangu_core.checkpoint.mirror import Mirror
from pangu_core.checkpoint.reader import Checkpoint
from pangu_core.checkpoint.store import Store
from pangu_core.config.stages import TrainConfig
from pangu_core.data.token_files import TokenFileWriter
from pangu_core.dist import topology
from pangu_core.errors import EXIT_COMPLETE, EXIT_STOPPED, ConfigError, PanguError, RemoteError
from pangu_core.layout import whole
from pangu_core.training.heartbeat import Heartbeat
from pangu_core.training.loop import Loop
from pangu_core.training.session import Session
from pangu_core.training.signals import StopRequests

pytestmark = pytest.mark.parallel

STEPS, LENGTH = 8, 8


def train(workspace, url, uid="u", attempt=1, stops=False):
    """One round on this rank: its exit code, or its error."""
    os.environ["PANGU_WORKSPACE"] = workspace
    world = int(os.environ["WORLD_SIZE"])
    config = TrainConfig.model_validate(
        {
            "run": {"name": "r", "uid": uid, "attempt": attempt},
            "model": {
                "numLayers": 2, "hiddenSize": 16, "numHeads": 4,
                "vocabSize": 50, "sequenceLength": LENGTH,
            },
            "tokenFiles": "tokens",
            "tokenizer": "vocab.model",
            "data": {"split": "100,0,0"},
            "train": {
                "steps": STEPS, "globalBatchSize": 2, "microBatchSize": 1, "precision": "fp32",
                "attentionDropout": 0.0, "hiddenDropout": 0.0, "logEverySteps": 1,
                "nodes": {"min": world, "max": world}, "optimizer": {"learningRate": 0.01},
                "checkpoint": {"everySteps": 3, "keep": 2, "copyTo": url},
            },
        }
    )  # fmt: skip
    stop = StopRequests()
    stop.must_go = stops
    try:
        with patch.object(copier, "Mirror", partial(Mirror, sleep=lambda _: None)):
            session = Session.open(config, topology(1))
            return Loop(session, stop=stop, heartbeat=Heartbeat(STEPS)).run().code
    except PanguError as error:
        return error


@pytest.fixture
def workspace(tmp_path):
    folder = tmp_path / "workspace"
    folder.mkdir()
    draw = np.random.default_rng(1)
    with TokenFileWriter(folder / "tokens", vocab_size=50) as writer:
        writer.add([int(t) for t in draw.integers(10, 50, 99 * LENGTH)])
        writer.end_document()
    (folder / "vocab.model").write_bytes(b"stands for a vocabulary")
    return str(folder)


@pytest.fixture
def url(tmp_path):
    return f"file://{tmp_path}/copies"


def contents(workspace):
    """Every tensor of the final checkpoint."""
    [folder] = Path(workspace).glob(f"runs/r/checkpoints/step-{STEPS:08d}")
    checkpoint = Checkpoint.open(folder)
    shapes = {s.key: s.shape for s in checkpoint.manifest.slices}
    return {key: checkpoint.read(key, whole(shape)).tolist() for key, shape in shapes.items()}


def events(workspace, kind):
    lines = (Path(workspace) / "runs/r/metrics.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def lose(workspace, url, *steps):
    """Lose the workspace and the copies of these steps."""
    shutil.rmtree(Path(workspace) / "runs")
    Mirror(url).prune({name for name in Mirror(url).names() if int(name[5:]) not in steps})


def test_the_copies_are_those_that_are_kept_and_the_final_one_is_waited_for(ranks, workspace, url):
    assert ranks.run(2, train, workspace, url) == [EXIT_COMPLETE] * 2
    assert Mirror(url).names() == ["step-00000008", "step-00000006"]
    copied = events(workspace, "copy")
    assert [event["error"] for event in copied] == [None] * len(copied)
    assert copied[-1]["copied_step"] == STEPS


def test_a_lost_workspace_goes_on_from_the_newest_copy(ranks, workspace, url):
    ranks.run(2, train, workspace, url)
    before = contents(workspace)
    lose(workspace, url, 8)
    assert ranks.run(2, train, workspace, url, "u", 2) == [EXIT_COMPLETE] * 2
    assert [event["step"] for event in events(workspace, "start")] == [6]
    assert contents(workspace) == before


def test_damage_of_all_that_is_here_is_mended_from_the_copies(ranks, workspace, url):
    ranks.run(1, train, workspace, url)
    before = contents(workspace)
    for path in Path(workspace).glob("runs/r/checkpoints/*/model-00000.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    assert ranks.run(1, train, workspace, url, "u", 2) == [EXIT_COMPLETE]
    assert contents(workspace) == before


def test_copies_that_cannot_be_written_end_nothing_but_the_end(ranks, workspace, url, tmp_path):
    """A file stands where the folder should be."""
    (tmp_path / "copies").write_text("no folder")
    [error] = ranks.run(1, train, workspace, url)
    assert isinstance(error, RemoteError)
    assert "training is complete and its checkpoint is in the workspace" in error.fix
    assert next(Store(Path(workspace) / "runs/r/checkpoints").candidates()).name == "step-00000008"
    failed = [event["error"] for event in events(workspace, "copy")]
    assert failed
    assert all("train.checkpoint.copyTo: file://" in text for text in failed)


def test_the_copies_of_another_run_are_refused_before_training(ranks, workspace, url):
    ranks.run(1, train, workspace, url)
    shutil.rmtree(Path(workspace) / "runs")
    [error] = ranks.run(1, train, workspace, url, "stranger")
    assert isinstance(error, ConfigError)
    assert "holds copies of run r" in str(error)
    assert len(Mirror(url).names()) == 2


def test_a_stop_does_not_wait_for_copies(ranks, workspace, url):
    assert ranks.run(2, train, workspace, url, "u", 1, True) == [EXIT_STOPPED] * 2
