"""Compiled layers compute what plain ones do, alone and with everything else switched on."""

import functools
import os
import warnings
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from pangu_core.checkpoint.reader import Checkpoint
from pangu_core.checkpoint.store import find_checkpoint
from pangu_core.config.model import ModelConfig
from pangu_core.config.stages import TrainConfig
from pangu_core.data.token_files import TokenFileWriter
from pangu_core.dist import topology
from pangu_core.layout import whole
from pangu_core.model.compiling import compile_layers
from pangu_core.model.gpt import PanguModel
from pangu_core.model.weights import initialise
from pangu_core.training.heartbeat import Heartbeat
from pangu_core.training.loop import Loop
from pangu_core.training.session import Session
from pangu_core.training.signals import StopRequests

pytestmark = pytest.mark.parallel

STEPS, BATCH, LENGTH = 4, 8, 16
DROPOUT = {"attentionDropout": 0.2, "hiddenDropout": 0.2}
EVERYTHING = {**DROPOUT, "recompute": True, "sequenceParallel": True}


class Watch(Heartbeat):
    """Remembers the phases, the losses, and how much had been compiled at the end of each step."""

    def __init__(self) -> None:
        super().__init__(STEPS)
        self.phases, self.losses, self.graphs = [], [], []

    def beat(self, phase, **values):
        self.phases.append(phase)
        if phase == "step":
            self.losses.append(values["loss"])
            self.graphs.append(counters["stats"]["unique_graphs"])


def with_back_end(name: str):
    return functools.partial(torch.compile, backend=name)


def train(workspace: str, tp: int, train: dict, backend: str, split: str):
    """A run on this rank: losses by step, phases, compiled graphs by step."""
    os.environ["PANGU_WORKSPACE"] = workspace
    plain = {"attentionDropout": 0.0, "hiddenDropout": 0.0}
    config = TrainConfig.model_validate(
        {
            "run": {"name": "r", "uid": "u", "attempt": 1},
            "model": {
                "numLayers": 3, "hiddenSize": 32, "numHeads": 4,
                "vocabSize": 101, "sequenceLength": LENGTH, "initStd": 0.2,
            },
            "tokenFiles": "tokens",
            "tokenizer": "vocab.model",
            "data": {"split": split},
            "train": {
                "steps": STEPS, "globalBatchSize": BATCH, "microBatchSize": 2,
                "tensorParallel": tp, "nodes": {"min": tp, "max": tp},
                "optimizer": {"learningRate": 0.001},
                "evaluate": {"everySteps": 2, "batches": 1},
                **plain, **train,
            },
        }
    )  # fmt: skip
    torch._dynamo.reset()
    counters.clear()
    watch = Watch()
    # The compiler warns about torch's own code.
    with warnings.catch_warnings(), patch.object(torch, "compile", with_back_end(backend)):
        warnings.simplefilter("ignore")
        session = Session.open(config, topology(tp))
        Loop(session, stop=StopRequests(), heartbeat=watch).run()
    return watch.losses, watch.phases, watch.graphs


def make_workspace(folder: Path) -> str:
    draw = np.random.default_rng(5)
    with TokenFileWriter(folder / "tokens", vocab_size=101) as writer:
        for _ in range(30):
            writer.add([int(t) for t in draw.integers(10, 101, 40)])
            writer.end_document()
    (folder / "vocab.model").write_bytes(b"stands for a vocabulary")
    return str(folder)


def stored(workspace: str) -> dict[str, np.ndarray]:
    """Weights and moments after the last step, whole."""
    checkpoint = Checkpoint.open(find_checkpoint(Path(workspace) / "runs/r/checkpoints"))
    shapes = {s.key: s.shape for s in checkpoint.manifest.slices}
    return {key: checkpoint.read(key, whole(shape)).numpy() for key, shape in shapes.items()}


@pytest.fixture
def both(ranks, tmp_path):
    """Runs twice, plain and compiled; replies and stored tensors of each."""

    def run(world, tp, settings, backend, split="80,20,0"):
        results = []
        for is_compiled in (False, True):
            folder = tmp_path / str(is_compiled)
            folder.mkdir()
            workspace = make_workspace(folder)
            options = {**settings, "compile": is_compiled}
            replies = ranks.run(world, train, workspace, tp, options, backend, split)
            results.append((replies, workspace))
        return [(replies, stored(workspace)) for replies, workspace in results]

    return run


CASES = {
    "one process": (1, 1, {}),
    "two tensor ranks": (2, 2, {}),
    "sharded data, recomputed, dropout": (2, 1, {**DROPOUT, "recompute": True}),
    "everything": (4, 2, EVERYTHING),
}


@pytest.mark.parametrize(("world", "tp", "settings"), CASES.values(), ids=CASES.keys())
def test_what_the_compiler_takes_in_is_the_plain_network(both, world, tp, settings):
    """With a back end that runs the captured operators as they are: every bit."""
    plain, compiled = both(world, tp, {**settings, "precision": "fp32"}, "aot_eager")
    for (losses, _, graphs), (expected, _, none) in zip(compiled[0], plain[0], strict=True):
        assert losses == expected
        assert none == [0] * STEPS
        # One code for the layers of the body and one for the query layer, in training and in the
        # evaluation after the second step; nothing is compiled again.
        assert graphs == [2, 2, 4, 4]
    for key, value in compiled[1].items():
        np.testing.assert_array_equal(value, plain[1][key], err_msg=key)


# The default back end writes C++ and has it compiled: seconds on an idle machine, minutes on a
# loaded one. One test therefore, with everything at once.
@pytest.mark.timeout(900)
def test_compiled_steps_are_the_plain_ones(both, monkeypatch):
    monkeypatch.setattr("ranks.REPLY_SECONDS", 800)
    settings = {**EVERYTHING, "precision": "fp64"}
    plain, compiled = both(2, 2, settings, "inductor", split="100,0,0")
    for (losses, _, graphs), (expected, _, _) in zip(compiled[0], plain[0], strict=True):
        assert losses == pytest.approx(expected, rel=1e-10)
        assert graphs == [2] * STEPS
    for key, value in compiled[1].items():
        limit = 1e-10 * np.abs(plain[1][key.replace("key.bias", "key.weight")]).max()
        np.testing.assert_allclose(value, plain[1][key], rtol=0, atol=limit, err_msg=key)


def test_the_first_step_is_declared_as_compiling(ranks, tmp_path):
    options = {"precision": "fp32", "compile": True}
    [(_, phases, _)] = ranks.run(1, train, make_workspace(tmp_path), 1, options, "eager", "80,20,0")
    assert phases[:3] == ["start", "compile", "step"]
    assert phases.count("compile") == 1


def hooked_pass():
    """How often hooks inside the layers run in a pass, compiled, told to run plain, and again."""
    torch._dynamo.reset()
    config = ModelConfig(num_layers=3, hidden_size=8, num_heads=2, vocab_size=11, sequence_length=4)
    network, tokens = PanguModel(config), torch.zeros(1, 4, dtype=torch.int64)
    initialise(network, seed=1)
    with warnings.catch_warnings(), patch.object(torch, "compile", with_back_end("eager")):
        warnings.simplefilter("ignore")
        compile_layers(network, torch.device("cpu"))
        network(tokens)
        before = counters["stats"]["unique_graphs"]
        seen = []
        hooks = [
            layer.ln1.register_forward_pre_hook(lambda *_: seen.append(1))
            for layer in network.layers
        ]
        with torch.compiler.set_stance("force_eager"):
            network(tokens)
        for hook in hooks:
            hook.remove()
        network(tokens)
    return len(seen), counters["stats"]["unique_graphs"] - before


def test_a_diagnosis_sees_inside_and_costs_no_second_compilation(ranks):
    assert ranks.run(1, hooked_pass) == [(2, 0)]
