"""Spreading the stream between tensor-parallel regions by sequence changes no number."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from pangu_core.config.model import ModelConfig
from pangu_core.config.train import OptimizerConfig
from pangu_core.data.batches import Batch
from pangu_core.dist import alone, topology
from pangu_core.layout import cut_dim, parameter_shape
from pangu_core.model.gpt import Build, LayerNorm, PanguModel
from pangu_core.model.weights import initialise, local_parts
from pangu_core.parallel.linear import ParallelInput, RowParallelLinear
from pangu_core.parallel.rng import Dropout, DropoutKey, generator
from pangu_core.training import optimizer as optimizing
from pangu_core.training.sharding import adopt_gradients, shard
from pangu_core.training.step import Replica, accumulate, evaluate, train_step

pytestmark = pytest.mark.parallel

# As in test_parity.py: rows that do not divide, attention far from uniform.
CONFIG = ModelConfig(
    num_layers=3,
    hidden_size=32,
    num_heads=4,
    vocab_size=101,
    sequence_length=16,
    init_std=0.2,
)
OPTIMIZER = OptimizerConfig(learning_rate=1e-3, epsilon=1e-8, clip_grad_norm=0.05)
MICRO_BATCHES = 3


@dataclass(frozen=True)
class Case:
    """One way of training."""

    tp: int = 2
    dropout: float = 0.0
    documents: bool = False
    recompute: bool = False
    spread: bool = True
    steps: int = 1


def batch(index: int, documents: bool) -> Batch:
    """Micro-batch ``index`` with its own count of loss-bearing tokens."""
    draw = np.random.default_rng(index)
    shape = (2, CONFIG.sequence_length)
    tokens = draw.integers(0, CONFIG.vocab_size, (2, CONFIG.sequence_length + 1))
    mask = (draw.random(shape) < 0.3 + 0.2 * index).astype(np.float32)
    place = np.broadcast_to(np.arange(CONFIG.sequence_length), shape).copy()
    segments = (place >= 5 + index).astype(np.int32)
    positions = np.where(segments, place - 5 - index, place) if documents else place
    ids = np.arange(2) + 2 * index
    return Batch(
        tokens[:, :-1], tokens[:, 1:], mask, positions, segments if documents else None, ids
    )


def build(case: Case):
    """This rank's replica, every vector with values that count."""
    place = topology(case.tp)
    double = torch.float64
    model = PanguModel(
        CONFIG,
        Build(
            place.tp,
            double,
            double,
            attention_dropout=case.dropout,
            hidden_dropout=case.dropout,
            recompute=case.recompute,
            sequence_parallel=case.spread,
        ),
    )
    initialise(model, seed=3)
    with torch.no_grad():
        for name, held, part in local_parts(model):
            if held.dim() == 1:
                draw = generator(torch.device("cpu"), "vectors", name)
                whole = torch.randn(parameter_shape(name, CONFIG), generator=draw)
                held.add_(0.1 * whole[slice(*part[0])])
    parameters = shard(model, place)
    return Replica(model, parameters, optimizing.build(parameters, OPTIMIZER), place)


def share(place, step: int, documents: bool):
    """This data rank's micro-batches of a step, and the global token count."""
    every = [
        (j, batch(MICRO_BATCHES * step + j, documents))
        for j in range(MICRO_BATCHES * place.dp.size)
    ]
    return every[place.dp.rank :: place.dp.size], sum(float(b.loss_mask.sum()) for _, b in every)


def train(case: Case):
    """Losses and norms of the steps, the last step's gradients, the parameters after it."""
    replica = build(case)
    numbers = []
    for step in range(case.steps):
        mine, count = share(replica.place, step, case.documents)
        result = train_step(
            replica,
            mine,
            num_tokens=count,
            dropout=DropoutKey(7, step + 1, 0),
            rate=OPTIMIZER.learning_rate,
            clip_norm=OPTIMIZER.clip_grad_norm,
        )
        numbers.append((result.loss, result.grad_norm))
    # Every rank's own tensors, repetitions included: these must agree as well.
    gradients = {owned.name: owned.local.grad.numpy() for owned in replica.parameters}
    values = {owned.name: owned.local.detach().numpy() for owned in replica.parameters}
    return numbers, gradients, values


def scale(name, gradients):
    """The entry that errors are held against; a key bias's true gradient is zero."""
    return np.abs(gradients[name.replace("key.bias", "key.weight")]).max(initial=0.0)


CASES = {
    "plain": (2, Case()),
    "documents and dropout": (2, Case(documents=True, dropout=0.2)),
    "recomputed, dropout": (2, Case(recompute=True, dropout=0.2)),
    "four ranks": (4, Case(tp=4, dropout=0.2)),
    "sharded data": (4, Case(documents=True)),
    "sharded data, recomputed, dropout": (4, Case(recompute=True, dropout=0.2, documents=True)),
    "four ranks, sharded data": (8, Case(tp=4, dropout=0.2, documents=True)),
    "several steps": (4, Case(dropout=0.2, documents=True, steps=4)),
}


@pytest.mark.parametrize(("world", "case"), CASES.values(), ids=CASES.keys())
def test_steps_are_those_without_it(ranks, world, case):
    ours = ranks.run(world, train, case)
    whole = ranks.run(world, train, replace(case, spread=False, recompute=False))
    for (numbers, gradients, values), (expected, whole_gradients, whole_values) in zip(
        ours, whole, strict=True
    ):
        np.testing.assert_allclose(numbers, expected, rtol=1e-10, atol=0)
        assert numbers[-1][1] > OPTIMIZER.clip_grad_norm
        for name in gradients:
            np.testing.assert_allclose(
                gradients[name],
                whole_gradients[name],
                rtol=0,
                atol=1e-10 * case.steps * scale(name, whole_gradients),
                err_msg=name,
            )
            np.testing.assert_allclose(
                values[name], whole_values[name], rtol=0, atol=1e-9, err_msg=name
            )


def seen_lengths():
    """Tokens that each kind of layer works on in one pass, by its input and its output."""
    place = topology(2)
    double = torch.float64
    model = PanguModel(CONFIG, Build(place.tp, double, double, 0.0, 0.1, sequence_parallel=True))
    initialise(model, seed=3)
    lengths: dict[str, set[tuple[int, int]]] = {}
    for module in model.modules():
        if isinstance(module, LayerNorm | Dropout | ParallelInput | RowParallelLinear):
            module.register_forward_hook(
                lambda module, given, made: lengths.setdefault(type(module).__name__, set()).add(
                    (given[0].shape[1], made.shape[1])
                )
            )
    logits = model(torch.zeros(2, CONFIG.sequence_length, dtype=torch.int64))
    return lengths, logits.shape[1]


def test_between_the_regions_a_rank_holds_its_part_of_the_sequence(ranks):
    whole, part = CONFIG.sequence_length, CONFIG.sequence_length // 2
    for lengths, logits in ranks.run(2, seen_lengths):
        assert lengths["LayerNorm"] == {(part, part)}
        assert lengths["Dropout"] == {(part, part)}
        assert lengths["ParallelInput"] == {(part, whole)}
        assert lengths["RowParallelLinear"] == {(whole, part)}
        assert logits == whole


def kept_bytes(case: Case) -> int:
    """Bytes that a forward pass leaves for the backward pass, views counted each."""
    replica, kept = build(case), []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.nbytes) or x, _same):
        replica.model(torch.zeros(2, CONFIG.sequence_length, dtype=torch.int64))
    return sum(kept)


def _same(x):
    return x


def test_less_is_kept_for_the_backward_pass(ranks):
    case = Case(tp=4)
    kept = ranks.run(4, kept_bytes, case)
    assert max(kept) < 0.9 * max(ranks.run(4, kept_bytes, replace(case, spread=False)))


def gradients_before_and_after_the_sum(case: Case):
    """What several micro-batches leave on this rank, and what the optimizer is given."""
    replica = build(case)
    mine, count = share(replica.place, 0, case.documents)
    accumulate(
        replica.model,
        mine,
        num_tokens=count,
        dropout=DropoutKey(7, 1, 0),
        device=replica.place.device,
    )
    left = {owned.name: plain(owned.source.grad).clone() for owned in replica.parameters}
    adopt_gradients(replica.parameters, replica.place.tp)
    return left, {owned.name: owned.local.grad for owned in replica.parameters}


def plain(gradient):
    return gradient.to_local() if hasattr(gradient, "to_local") else gradient


def test_partial_gradients_are_summed_exactly_once(ranks):
    replies = ranks.run(4, gradients_before_and_after_the_sum, Case())  # tp 2, dp 2
    for first, second in (replies[:2], replies[2:]):  # tensor groups are neighbours
        for name, left in first[0].items():
            if cut_dim(name) is not None:
                assert torch.equal(first[1][name], left), name
                continue
            other = second[0][name]
            assert not torch.equal(left, other), name
            torch.testing.assert_close(first[1][name], left + other, rtol=0, atol=1e-14)
            assert torch.equal(first[1][name], second[1][name]), name


def validation_loss(case: Case) -> float:
    replica = build(case)
    return evaluate(replica, share(replica.place, 0, case.documents)[0])


def test_an_evaluation_gives_the_same_loss(ranks):
    [ours, _] = ranks.run(2, validation_loss, Case(documents=True))
    [whole, _] = ranks.run(2, validation_loss, Case(documents=True, spread=False))
    assert ours == pytest.approx(whole, rel=1e-12)


def test_with_one_tensor_rank_it_changes_nothing():
    model = PanguModel(CONFIG, Build(sequence_parallel=True))
    assert model.stream.size == 1
    initialise(model, seed=3)
    parameters = shard(model, alone())
    assert not any(owned.is_partial for owned in parameters)
