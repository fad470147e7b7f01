"""On a CUDA device the numbers are those of the CPU, and two runs give the same bits."""

import math

import numpy as np
import pytest
import torch

from pangu_core.config.model import ModelConfig
from pangu_core.config.train import OptimizerConfig
from pangu_core.data.batches import Batch
from pangu_core.dist import ALONE, Axis, alone
from pangu_core.model.compiling import compile_layers
from pangu_core.model.gpt import Build, PanguModel
from pangu_core.model.weights import initialise
from pangu_core.parallel.rng import Dropout, DropoutKey
from pangu_core.training import optimizer as optimizing
from pangu_core.training.sharding import shard
from pangu_core.training.step import Replica, train_step

pytestmark = pytest.mark.gpu

# Head size 80, as in the 2.6B network: the size that kernels tend to lack.
CONFIG = ModelConfig(
    num_layers=3, hidden_size=160, num_heads=2, vocab_size=1001, sequence_length=64
)


def batch(documents: bool = True) -> Batch:
    draw = np.random.default_rng(1)
    tokens = draw.integers(0, CONFIG.vocab_size, (4, CONFIG.sequence_length + 1))
    shape = (4, CONFIG.sequence_length)
    place = np.broadcast_to(np.arange(shape[1]), shape).copy()
    segments = (place >= 20).astype(np.int32)
    positions = np.where(segments, place - 20, place) if documents else place
    mask = (draw.random(shape) < 0.7).astype(np.float32)
    ids = np.arange(4)
    return Batch(
        tokens[:, :-1], tokens[:, 1:], mask, positions, segments if documents else None, ids
    )


def step(
    device: str,
    parameter: torch.dtype,
    compute: torch.dtype,
    documents: bool = True,
    loss_scale: float = 1.0,
    is_compiled: bool = False,
    **build,
):
    """Loss, gradient norm and parameters after one update."""
    place = alone(device)
    model = PanguModel(CONFIG, Build(ALONE, parameter, compute, **build)).to(device)
    if is_compiled:
        compile_layers(model, place.device)
    initialise(model, seed=3)
    parameters = shard(model, place)
    optimizer = optimizing.build(parameters, OptimizerConfig(learning_rate=1e-3))
    one = batch(documents)
    result = train_step(
        Replica(model, parameters, optimizer, place),
        [(0, one)],
        num_tokens=float(one.loss_mask.sum()),
        dropout=DropoutKey(1, 1, 0),
        rate=1e-3,
        clip_norm=1.0,
        loss_scale=loss_scale,
    )
    values = {owned.name: owned.local.detach().cpu() for owned in parameters}
    return result.loss, result.grad_norm, values


@pytest.mark.parametrize("documents", [True, False])
def test_a_float64_step_is_the_cpus(documents):
    ours = step("cuda", torch.float64, torch.float64, documents)
    cpus = step("cpu", torch.float64, torch.float64, documents)
    assert ours[0] == pytest.approx(cpus[0], abs=1e-12)
    assert ours[1] == pytest.approx(cpus[1], rel=1e-10)
    for name, expected in cpus[2].items():
        torch.testing.assert_close(ours[2][name], expected, rtol=0, atol=1e-9, msg=name)


def test_a_bfloat16_step_is_near_the_float32_one():
    half = step("cuda", torch.float32, torch.bfloat16)
    full = step("cuda", torch.float32, torch.float32)
    assert half[0] == pytest.approx(full[0], rel=2e-3)
    assert half[1] == pytest.approx(full[1], rel=2e-2)


def test_a_float16_step_is_near_the_float32_one():
    half = step("cuda", torch.float32, torch.float16, loss_scale=1024.0)
    full = step("cuda", torch.float32, torch.float32)
    assert half[0] == pytest.approx(full[0], rel=2e-3)
    assert half[1] == pytest.approx(full[1], rel=2e-2)


def test_a_float16_step_that_overflows_changes_nothing():
    loss, norm, after = step("cuda", torch.float32, torch.float16, loss_scale=2.0**40)
    before = PanguModel(CONFIG, Build())
    initialise(before, seed=3)
    assert math.isfinite(loss)
    assert math.isnan(norm)
    for name, value in before.named_parameters():
        assert torch.equal(after[name], value), name


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16, torch.float16])
def test_two_runs_give_the_same_bits(compute):
    first, second = (step("cuda", torch.float32, compute, documents=False) for _ in range(2))
    assert first[:2] == second[:2]
    for name, value in first[2].items():
        assert torch.equal(second[2][name], value), name


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")  # the compiler warns about torch's own code
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(
    ("parameter", "compute", "bound"),
    [
        (torch.float64, torch.float64, 1e-10),
        (torch.float32, torch.float32, 1e-5),
        (torch.float32, torch.bfloat16, 2e-2),
    ],
)
def test_a_compiled_step_is_the_plain_one(parameter, compute, bound, recompute):
    # A process trains in one precision; the tests' many would exhaust the compiler's variants.
    torch._dynamo.reset()
    build = {"attention_dropout": 0.2, "hidden_dropout": 0.2, "recompute": recompute}
    plain = step("cuda", parameter, compute, **build)
    compiled = step("cuda", parameter, compute, is_compiled=True, **build)
    assert compiled[0] == pytest.approx(plain[0], rel=bound / 10)
    assert compiled[1] == pytest.approx(plain[1], rel=bound)
    if compute == torch.float64:  # else rounding may turn the sign of a first update
        for name, expected in plain[2].items():
            torch.testing.assert_close(compiled[2][name], expected, rtol=0, atol=1e-9, msg=name)


def test_a_spread_stream_gets_the_same_dropout():
    x = torch.ones(2, 8, 16, device="cuda")
    key = DropoutKey(1, 2, 3).tensor()
    parts = [Dropout(0.25, "here", stream=Axis(rank, 4))(x[:, :2], key) for rank in range(4)]
    assert torch.equal(torch.cat(parts, dim=1), Dropout(0.25, "here")(x, key))
