"""Steps whose numbers are not finite: no rank makes the update, and nothing else moves either."""

import dataclasses
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from pangu_core.config.stages import TrainConfig
from pangu_core.data.token_files import TokenFileWriter
from pangu_core.dist import topology
from pangu_core.training.heartbeat import Heartbeat
from pangu_core.training.loop import Loop
from pangu_core.training.session import Session
from pangu_core.training.sharding import OwnedParameter
from pangu_core.training.signals import StopRequests

pytestmark = pytest.mark.parallel

STEPS, BATCH, MICRO, LENGTH, VOCABULARY = 8, 6, 2, 8, 50
POISON = 49  # a token whose row of the word table the tests make infinite
TOKENS = 120 * LENGTH + 2


class Spoiled(OwnedParameter):
    """A parameter whose gradient is infinite on this rank in some steps (counted from 1)."""

    def adopt_gradient(self) -> None:
        super().adopt_gradient()
        self.__dict__["turn"] = self.__dict__.get("turn", 0) + 1
        if self.__dict__["turn"] in self.__dict__["at"] and self.local.numel():
            self.local.grad.view(-1)[0] = torch.inf


class Watch(Heartbeat):
    """Asks for a stop after a step, as a signal would; remembers the losses."""

    def __init__(self, stop: StopRequests, stop_at: int | None) -> None:
        super().__init__(STEPS)
        self.stop, self.stop_at, self.losses = stop, stop_at, {}

    def beat(self, phase, **values):
        if phase == "step":
            self.losses[values["step"]] = values.get("loss")
            self.stop.must_go = self.stop.must_go or values["step"] == self.stop_at


def open_session(workspace: str, tp: int, attempt: int = 1, **train) -> Session:
    os.environ["PANGU_WORKSPACE"] = workspace
    config = {
        "run": {"name": "r", "uid": "u", "attempt": attempt},
        "model": {
            "numLayers": 2, "hiddenSize": 16, "numHeads": 4,
            "vocabSize": VOCABULARY, "sequenceLength": LENGTH,
        },
        "tokenFiles": "tokens",
        "tokenizer": "vocab.model",
        "data": {"split": "100,0,0"},
        "train": {
            "steps": STEPS, "globalBatchSize": BATCH, "microBatchSize": MICRO,
            "tensorParallel": tp, "precision": "fp16", "logEverySteps": 1,
            "attentionDropout": 0.0, "hiddenDropout": 0.0, "nodes": {"min": tp, "max": tp},
            "optimizer": {"learningRate": 0.01, "warmup": 0.5},
            "lossScale": {"initial": 64.0, "hysteresis": 1},
        } | train,
    }  # fmt: skip
    return Session.open(TrainConfig.model_validate(config), topology(tp))


def spoil(session: Session, name: str, at: set[int]) -> Session:
    """Make one gradient infinite on this rank."""
    parameters = []
    for owned in session.replica.parameters:
        if owned.name == name:
            owned = Spoiled(**vars(owned))
            owned.__dict__["at"] = at
        parameters.append(owned)
    replica = dataclasses.replace(session.replica, parameters=parameters)
    return dataclasses.replace(session, replica=replica)


def run(session: Session, stop_at: int | None = None) -> Watch:
    stop = StopRequests()
    watch = Watch(stop, stop_at)
    Loop(session, stop=stop, heartbeat=watch).run()
    return watch


def state_of(session: Session) -> dict[str, np.ndarray]:
    """All that training changes on this rank."""
    state = {}
    for owned in session.replica.parameters:
        state[owned.name] = owned.local.detach().numpy().copy()
        for key, value in session.replica.optimizer.state.get(owned.local, {}).items():
            state[f"{owned.name}/{key}"] = value.numpy().copy()
    return state


def one_spoiled_step(workspace: str, tp: int, rank: int, name: str):
    """Two steps, then one with an infinite gradient on ``rank`` alone."""
    session = open_session(workspace, tp)
    if session.place.rank == rank:
        session = spoil(session, name, {3})
    position, _ = session.load()
    loop = Loop(session, stop=StopRequests(), heartbeat=Heartbeat(STEPS))
    states, positions = [], []
    for _ in range(3):
        batches = session.feed.training_batches(position.samples, session.place.dp)
        num_tokens, *_ = loop._agree(batches)
        result = loop._step(position, batches, num_tokens)
        position = position.after(
            result, num_samples=BATCH, settings=session.config.train.loss_scale
        )
        states.append(state_of(session))
        positions.append(position)
    equal = [
        all(np.array_equal(a[key], b[key]) for key in a) for a, b in itertools.pairwise(states)
    ]
    return equal, [dataclasses.asdict(p) for p in positions], session.replica.place.rank


SPOILED = {
    "of two tensor ranks, a cut matrix": (2, 2, 1, "layers.0.attention.query.weight"),
    "of two tensor ranks, a repeated LayerNorm": (2, 2, 1, "layers.0.ln1.weight"),
    "of two data ranks": (2, 1, 1, "layers.0.mlp.up.weight"),
    "of four, a repeated bias": (4, 2, 3, "query_layer.mlp.down.bias"),
}


@pytest.mark.parametrize("case", SPOILED.values(), ids=SPOILED.keys())
def test_an_overflow_on_one_rank_makes_all_skip(ranks, workspace, case):
    world, tp, rank, name = case
    for equal, positions, _ in ranks.run(world, one_spoiled_step, workspace, tp, rank, name):
        assert equal == [False, True]  # step 2 changed parameters and moments, step 3 nothing
        assert [p["skipped"] for p in positions] == [0, 0, 1]
        assert [p["loss_scale"]["scale"] for p in positions] == [64.0, 64.0, 32.0]
        assert (positions[2]["step"], positions[2]["samples"]) == (3, 3 * BATCH)


@pytest.fixture
def workspace(tmp_path: Path) -> str:
    return make_workspace(tmp_path)


def make_workspace(folder: Path) -> str:
    draw = np.random.default_rng(5)
    with TokenFileWriter(folder / "tokens", vocab_size=VOCABULARY) as writer:
        writer.add([int(t) for t in draw.integers(10, POISON, TOKENS)])
        writer.end_document()
    (folder / "vocab.model").write_bytes(b"stands for a vocabulary")
    return str(folder)
