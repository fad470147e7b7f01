"""Steps whose numbers are not finite: no rank makes the update, and nothing else moves either."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch

from pangu_core.checkpoint.reader import Checkpoint
from pangu_core.checkpoint.store import find_checkpoint
from pangu_core.checkpoint.stream import reshard
from pangu_core.config.stages import DataSettings, TrainConfig
from pangu_core.data.token_files import TokenFileWriter
from pangu_core.dist import topology
from pangu_core.layout import whole
from pangu_core.training import loop as looping
from pangu_core.training.feed import Feed
from pangu_core.training.heartbeat import Heartbeat
from pangu_core.training.loop import Loop
from pangu_core.training.plan import Plan
from pangu_core.training.schedule import learning_rate
from pangu_core.training.session import Session
from pangu_core.training.sharding import OwnedParameter
from pangu_core.training.signals import StopRequests

pytestmark = pytest.mark.parallel

BATCH, MICRO, LENGTH, VOCABULARY = 6, 2, 8, 50
SAMPLES = 120  # an epoch
ODD = 57  # the one sample that is a single document, and so reaches the last position
SCALE = {"initial": 64.0, "window": 3, "hysteresis": 2}
QUERY = "layers.0.attention.query.weight"


@dataclasses.dataclass(frozen=True)
class Spoiled(OwnedParameter):
    """A parameter whose gradient is infinite on this rank in some steps, counted from 1."""

    steps: Collection[int] = ()
    gone: list[int] = dataclasses.field(default_factory=list)

    def adopt_gradient(self) -> None:
        super().adopt_gradient()
        self.gone.append(len(self.gone) + 1)
        if self.gone[-1] in self.steps:
            self.local.grad.view(-1)[0] = torch.inf


@dataclasses.dataclass(frozen=True)
class Round:
    """What to train and what goes wrong in it; equal on all ranks."""

    workspace: str
    tp: int = 1
    steps: int = 10
    attempt: int = 1
    stop_at: int | None = None
    spoiled: str = QUERY
    spoiled_rank: int = 0
    spoiled_steps: tuple[int, ...] = ()
    poisoned: bool = False  # whether the last row of the position table is NaN
    train: dict = dataclasses.field(default_factory=dict)

    def config(self) -> TrainConfig:
        train = {
            "steps": self.steps, "globalBatchSize": BATCH, "microBatchSize": MICRO,
            "tensorParallel": self.tp, "nodes": {"min": self.tp, "max": self.tp},
            "precision": "fp16", "lossScale": SCALE, "logEverySteps": 1,
            "attentionDropout": 0.0, "hiddenDropout": 0.0,
            "optimizer": {"learningRate": 0.01, "warmup": 0.3},
        }  # fmt: skip
        values = {
            "run": {"name": "r", "uid": "u", "attempt": self.attempt},
            "model": {
                "numLayers": 2, "hiddenSize": 16, "numHeads": 4,
                "vocabSize": VOCABULARY, "sequenceLength": LENGTH,
            },
            "tokenFiles": "tokens",
            "tokenizer": "vocab.model",
            "data": {"split": "100,0,0"},
            "train": train | self.train,
        }  # fmt: skip
        return TrainConfig.model_validate(values)


class Watch(Heartbeat):
    """Remembers what a rank says and holds after each step, and asks for a stop as a signal would."""

    def __init__(self, plan: Round, session: Session, stop: StopRequests) -> None:
        super().__init__(plan.steps)
        self.plan, self.session, self.stop = plan, session, stop
        self.losses, self.skipped, self.states, self.scales = {}, [], [], []

    def beat(self, phase, **values):
        if phase == "step":
            self.losses[values["step"]] = values["loss"]
            self.skipped.append(values.get("skipped"))
            self.states.append(digest(self.session))
            self.stop.must_go = self.stop.must_go or values["step"] == self.plan.stop_at

    def step(self, *args, **arguments):
        self.scales.append(arguments["loss_scale"])
        return self.usual_step(*args, **arguments)

    usual_step = staticmethod(looping.train_step)


def digest(session: Session) -> str:
    """Of all that an update changes on this rank."""
    content = hashlib.sha256()
    for owned in session.replica.parameters:
        content.update(owned.local.detach().numpy().tobytes())
        for value in session.replica.optimizer.state.get(owned.local, {}).values():
            content.update(value.numpy().tobytes())
    return content.hexdigest()


def train(plan: Round):
    """One round on this rank."""
    os.environ["PANGU_WORKSPACE"] = plan.workspace
    session = Session.open(plan.config(), topology(plan.tp))
    if session.place.rank == plan.spoiled_rank:
        session = spoil(session, plan)
    stop = StopRequests()
    watch = Watch(plan, session, stop)
    with ExitStack() as stack:
        stack.enter_context(patch.object(looping, "train_step", watch.step))
        if plan.poisoned:
            stack.enter_context(patch.object(Session, "load", poison_after(Session.load)))
        Loop(session, stop=stop, heartbeat=watch).run()
    return watch.losses, watch.skipped, watch.states, watch.scales


def spoil(session: Session, plan: Round) -> Session:
    parameters = [
        Spoiled(**vars(owned), steps=plan.spoiled_steps) if owned.name == plan.spoiled else owned
        for owned in session.replica.parameters
    ]
    replica = dataclasses.replace(session.replica, parameters=parameters)
    return dataclasses.replace(session, replica=replica)


def poison_after(load):
    def poisoned(session, *args):
        found = load(session, *args)
        for owned in session.replica.parameters:
            if owned.name == "position_embedding.weight" and owned.part[0][1] == LENGTH:
                with torch.no_grad():
                    owned.real(owned.local)[-1] = torch.nan
        return found

    return poisoned


@pytest.fixture
def workspace(tmp_path: Path) -> str:
    return make_workspace(tmp_path)


def make_workspace(folder: Path) -> str:
    """Samples of two documents each, but for one."""
    tokens = np.random.default_rng(5).integers(10, VOCABULARY, (SAMPLES, LENGTH))
    tokens[np.arange(SAMPLES) != ODD, LENGTH // 2 - 1] = 9
    with TokenFileWriter(folder / "tokens", vocab_size=VOCABULARY) as writer:
        writer.add([*tokens.flatten().tolist(), 10])
        writer.end_document()
    (folder / "vocab.model").write_bytes(b"stands for a vocabulary")
    return str(folder)


def newest(workspace: str) -> Checkpoint:
    return Checkpoint.open(find_checkpoint(Path(workspace) / "runs/r/checkpoints"))


def tensors(workspace: str) -> dict[str, np.ndarray]:
    """Every tensor of the newest checkpoint, whole."""
    checkpoint = newest(workspace)
    shapes = {s.key: s.shape for s in checkpoint.manifest.slices}
    return {key: checkpoint.read(key, whole(shape)).numpy() for key, shape in shapes.items()}


def events(workspace: str, kind: str) -> list[dict]:
    lines = (Path(workspace) / "runs/r/metrics.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


SPOILED = {
    "a matrix cut over two tensor ranks": (2, 2, QUERY),
    "a LayerNorm repeated by two tensor ranks": (2, 2, "layers.0.ln1.weight"),
    "a matrix spread over two data ranks": (2, 1, "layers.0.mlp.up.weight"),
    "a bias repeated and spread": (4, 2, "query_layer.mlp.down.bias"),
}


@pytest.mark.parametrize(("world", "tp", "name"), SPOILED.values(), ids=SPOILED.keys())
def test_an_overflow_on_one_rank_makes_all_skip(ranks, workspace, world, tp, name):
    plan = Round(
        workspace, tp, 4, spoiled=name, spoiled_rank=world - 1, spoiled_steps=(3,),
        train={"lossScale": {"initial": 64.0, "hysteresis": 1}},
    )  # fmt: skip
    for _, skipped, states, scales in ranks.run(world, train, plan):
        assert skipped == [None, None, 1, None]
        assert len(set(states)) == 3
        assert states[2] == states[1]  # parameters and moments, bit for bit
        assert scales == [64.0, 64.0, 64.0, 32.0]


@pytest.fixture(scope="module")
def undisturbed(ranks, tmp_path_factory):
    """Ten steps at once, of which the second and the third overflow."""
    workspace = make_workspace(tmp_path_factory.mktemp("undisturbed"))
    losses, _, _, scales = ranks.run(1, train, Round(workspace, spoiled_steps=(2, 3)))[0]
    return workspace, losses, scales


def test_the_scale_follows_the_overflows_of_a_run(undisturbed):
    """Two overflows halve it, three clean steps double it."""
    workspace, _, scales = undisturbed
    assert scales == [64.0, 64.0, 64.0, 32.0, 32.0, 32.0, 64.0, 64.0, 64.0, 128.0]
    assert newest(workspace).manifest.skipped == 2


def test_a_skipped_step_does_not_move_the_schedule(undisturbed):
    workspace, _, _ = undisturbed
    optimizer = Round(workspace).config().train.optimizer
    rates = {event["step"]: event["learning_rate"] for event in events(workspace, "step")}
    steps = (1, 4, 5, 6, 7, 8, 9, 10)
    assert rates == {s: learning_rate(n, optimizer, 10) for n, s in enumerate(steps, start=1)}


def test_lines_of_metrics_tell_of_skipped_steps(undisturbed):
    workspace, _, _ = undisturbed
    skips = events(workspace, "skip")
    assert [(e["step"], e["skipped"], e["loss_scale"]) for e in skips] == [(2, 1, 64), (3, 2, 32)]
    assert [event["grad_norm"] for event in skips] == [None, None]
    last = events(workspace, "step")[-1]
    assert (last["step"], last["skipped"], last["loss_scale"]) == (10, 2, 128.0)


def test_going_on_after_skipped_steps_is_bitwise_the_same(ranks, workspace, undisturbed):
    ranks.run(1, train, Round(workspace, stop_at=5, spoiled_steps=(2, 3)))
    losses, _, _, scales = ranks.run(1, train, Round(workspace, attempt=2))[0]
    assert losses == {step: undisturbed[1][step] for step in range(6, 11)}
    assert scales == undisturbed[2][5:]
    for key, value in tensors(undisturbed[0]).items():
        np.testing.assert_array_equal(tensors(workspace)[key], value, err_msg=key)


def test_the_scale_goes_on_at_any_other_number_of_ranks(ranks, workspace, undisturbed):
    ranks.run(4, train, Round(workspace, 2, stop_at=5, spoiled_steps=(2, 3)))
    for losses, _, _, scales in ranks.run(3, train, Round(workspace, attempt=2)):
        assert scales == undisturbed[2][5:]
        assert losses == pytest.approx({s: undisturbed[1][s] for s in losses}, abs=1e-3)
    before, after = (newest(w).manifest for w in (undisturbed[0], workspace))
    assert (after.skipped, after.loss_scale) == (before.skipped, before.loss_scale)


def test_the_scale_survives_splitting_and_merging(undisturbed, tmp_path):
    source = newest(undisturbed[0])
    reshard(source, tmp_path / "split", tp=2, optimizer=True)
    reshard(Checkpoint.open(tmp_path / "split"), tmp_path / "merged", optimizer=True)
    merged = Checkpoint.open(tmp_path / "merged").manifest
    assert source.manifest.loss_scale is not None
    assert merged.loss_scale == source.manifest.loss_scale
    assert (merged.step, merged.skipped) == (10, 2)


def test_training_in_fp16_stays_near_fp32(ranks, tmp_path_factory):
    losses = {}
    for precision in ("fp16", "fp32"):
        workspace = make_workspace(tmp_path_factory.mktemp(precision))
        plan = Round(workspace, 2, 20, train={"precision": precision})
        losses[precision] = ranks.run(4, train, plan)[0][0]
    assert losses["fp32"][20] < losses["fp32"][1] - 0.1
    assert losses["fp16"] == pytest.approx(losses["fp32"], abs=5e-4)


def test_overflow_at_the_smallest_scale_ends_training(ranks, workspace):
    scale = {"initial": 2.0**40, "minimum": 2.0**39, "hysteresis": 1}
    plan = Round(workspace, 2, train={"lossScale": scale})
    message = (
        r"step 2: gradients overflow at loss scale 5\.49756e\+11: "
        r"3 micro-batches, first micro-batch 0 \(gradient\): samples 6 to 7 \(ids \d+, \d+\); "
    )
    with pytest.raises(AssertionError, match=message):
        ranks.run(4, train, plan)


def test_a_few_steps_that_are_not_finite_are_borne_in_any_precision(ranks, workspace):
    plan = Round(workspace, 2, 6, spoiled_rank=1, spoiled_steps=(2, 3, 5),
                 train={"precision": "fp32", "maxSkippedSteps": 3})  # fmt: skip
    for _, _, states, scales in ranks.run(2, train, plan):
        assert len(set(states)) == 3
        assert scales == [1.0] * 6
    assert [event["step"] for event in events(workspace, "skip")] == [2, 3, 5]
    assert "loss_scale" not in events(workspace, "step")[0]


def test_too_many_such_steps_in_a_row_end_training(ranks, workspace):
    plan = Round(workspace, 2, spoiled_rank=1, spoiled_steps=(2, 4, 5),
                 train={"precision": "bf16", "maxSkippedSteps": 2})  # fmt: skip
    message = r"step 5: loss \d\.\d+, gradient norm nan: each micro-batch alone is finite"
    with pytest.raises(AssertionError, match=message):
        ranks.run(2, train, plan)


@pytest.mark.parametrize(("world", "tp", "precision"), [(1, 1, "fp32"), (4, 2, "fp16")])
def test_the_sample_at_fault_is_named(ranks, workspace, world, tp, precision):
    """One sample reads a row of the position table that is NaN."""
    plan = Round(workspace, tp, SAMPLES // BATCH, poisoned=True,
                 train={"precision": precision, "maxSkippedSteps": 1})  # fmt: skip
    counter = counter_of(ODD, plan)
    step, micro_batch = counter // BATCH + 1, counter % BATCH // MICRO
    message = (
        f"step {step}: loss nan, gradient norm nan: "
        rf"micro-batch {micro_batch} \(loss\): samples {counter} \(ids {ODD}\): must be finite"
    )
    with pytest.raises(AssertionError, match=message):
        ranks.run(world, train, plan)


def counter_of(sample_id: int, plan: Round) -> int:
    """Where in the run's order a sample comes."""
    config = plan.config()
    settled = Plan(plan.steps, LENGTH, BATCH, MICRO)
    feed = Feed.open(Path(plan.workspace) / "tokens", DataSettings(), settled, config.train.seed)
    return [s.sample_id for s in feed.training.samples(range(SAMPLES))].index(sample_id)
