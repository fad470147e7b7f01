"""Resharding: parts tile every tensor, and any walk over layouts gives the first bytes again."""

from itertools import pairwise, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pangu_core.checkpoint.manifest import Layout, tiles_exactly
from pangu_core.checkpoint.reader import Checkpoint
from pangu_core.checkpoint.reshard import held_part, stored_parts
from pangu_core.checkpoint.store import Store
from pangu_core.config.model import ModelConfig
from pangu_core.layout import (
    intersect,
    padded_rows,
    parameter_shapes,
    relative,
    tensor_slice,
    whole,
)

TPS, DPS = (1, 2, 4, 8), (1, 2, 3, 5, 7)
LAYOUTS = list(product(TPS, DPS))
# Vocabularies that divide by nothing, by everything, and that leave late ranks without rows.
MODELS = [
    ModelConfig(num_layers=2, hidden_size=16, num_heads=8, vocab_size=v, sequence_length=5)
    for v in (1, 13, 40, 97)
]


@pytest.mark.parametrize(("tp", "dp"), LAYOUTS)
@pytest.mark.parametrize("model", MODELS, ids=lambda m: f"vocab{m.vocab_size}")
def test_stored_parts_tile_every_tensor(model, tp, dp):
    for name, shape in parameter_shapes(model).items():
        ranks = product(range(tp), range(dp))
        parts = [stored_parts(name, shape, tp, t, dp, d) for t, d in ranks]
        assert tiles_exactly(shape, [part for part in parts if part is not None]), name


@pytest.mark.parametrize(("tp", "dp"), LAYOUTS)
def test_a_rank_holds_the_chunk_that_fsdp_gives_it(tp, dp):
    name, shape = "word_embedding.weight", (13, 4)
    table = torch.arange(52.0).reshape(shape)
    rows = padded_rows(13, tp)
    for t in range(tp):
        local = torch.full((rows, 4), -1.0)  # -1 is padding
        real = table[relative(tensor_slice(name, shape, t, tp), whole(shape))]
        local[: len(real)] = real
        for d, chunk in enumerate(torch.chunk(local, dp)):
            part = held_part(name, shape, tp, t, dp, d)
            held = table[relative(part, whole(shape))] if part else table[:0]
            assert torch.equal(chunk[chunk[:, 0] >= 0], held)


def test_what_all_tensor_ranks_hold_is_stored_once():
    name, shape = "query_layer.attention.output.bias", (8,)
    assert held_part(name, shape, 2, 1, 2, 1) == ((4, 8),)
    assert stored_parts(name, shape, 2, 0, 2, 1) == ((4, 8),)
    assert stored_parts(name, shape, 2, 1, 2, 1) is None


@given(
    shape=st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple),
    data=st.data(),
)
def test_a_missing_a_doubled_and_a_moved_part_do_not_tile(shape, data):
    cuts = [data.draw(st.sets(st.integers(0, size)).map(sorted)) for size in shape]
    spans = [list(pairwise(sorted({0, *cut, size}))) for cut, size in zip(cuts, shape, strict=True)]
    parts = list(product(*spans))
    assert tiles_exactly(shape, parts)
    chosen = data.draw(st.sampled_from(parts))
    rest = [part for part in parts if part != chosen]
    moved = tuple((a + 1, b + 1) for a, b in chosen)
    assert not tiles_exactly(shape, rest)
    assert not tiles_exactly(shape, [*parts, chosen])
    assert not tiles_exactly(shape, [*rest, moved])


@settings(deadline=None, max_examples=8)
@given(walk=st.lists(st.sampled_from(LAYOUTS), min_size=2, max_size=4))
def test_a_walk_over_layouts_gives_the_first_bytes_again(walk, small, tmp_path_factory):
    first = small.tensors(seed=len(walk))
    tensors, root = first, tmp_path_factory.mktemp("walk")
    for step, (tp, dp) in enumerate(walk):
        saved = small.save_as(Store(root), step, tensors, Layout(tp, dp))
        checkpoint = Checkpoint.open(saved[0].folder)
        tensors = {key: checkpoint.read(key, whole(tuple(t.shape))) for key, t in tensors.items()}
    assert all(
        torch.equal(first[key].view(torch.int32), tensors[key].view(torch.int32)) for key in first
    )


@pytest.mark.parametrize(("old", "new"), [((4, 3), (1, 5)), ((1, 7), (8, 2)), ((2, 5), (4, 1))])
def test_any_layout_loads_from_any_other_without_a_tool(old, new, small, tmp_path):
    tensors = small.tensors()
    saved = small.save_as(Store(tmp_path), 1, tensors, Layout(*old))
    checkpoint = Checkpoint.open(saved[0].folder)
    tp, dp = new
    for (key, tensor), t, d in product(tensors.items(), range(tp), range(dp)):
        shape = tuple(tensor.shape)
        part = held_part(key.partition("/")[2], shape, tp, t, dp, d)
        if part is not None:
            expected = tensor[relative(part, whole(shape))]
            assert torch.equal(checkpoint.read(key, part), expected)


def test_slices_that_only_touch_have_nothing_in_common():
    assert intersect(((0, 2), (0, 3)), ((2, 4), (0, 3))) is None
