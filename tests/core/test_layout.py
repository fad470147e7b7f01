"""The layout table and the arithmetic of slices."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pangu_core import layout
from pangu_core.config.model import PRESETS, ModelConfig

TINY = PRESETS["tiny"]


@given(size=st.integers(0, 200), num_ranks=st.integers(1, 16))
def test_shards_tile_every_size_exactly(size, num_ranks):
    bounds = [layout.shard_bounds(size, rank, num_ranks) for rank in range(num_ranks)]
    covered = [row for start, stop in bounds for row in range(start, stop)]
    assert covered == list(range(size))
    assert all(stop - start <= layout.padded_rows(size, num_ranks) for start, stop in bounds)


def test_every_parameter_has_a_cut_and_a_shape():
    names = list(layout.parameter_names(TINY.num_layers))
    assert len(names) == 16 * TINY.num_layers + 5
    assert {layout.cut_dim(name) for name in names} == {0, 1, None}
    assert layout.parameter_shape("layers.2.mlp.up.weight", TINY) == (512, 128)
    assert layout.parameter_shape("query_layer.mlp.down.weight", TINY) == (128, 512)
    assert layout.parameter_shape("query_layer.ln1.weight", TINY) == (128,)


@pytest.mark.parametrize("name", ["layers.0.attention.dense.weight", "head.weight", "layers.0"])
def test_a_name_that_is_no_parameter_has_no_cut(name):
    with pytest.raises(KeyError):
        layout.cut_dim(name)


@pytest.mark.parametrize("name", ["layers.1.attention.output.bias", "query_layer.mlp.down.bias"])
def test_a_row_parallel_bias_is_held_whole(name):
    assert layout.cut_dim(name) is None
    assert layout.tensor_slice(name, (128,), 1, 2) == ((0, 128),)


def test_a_vocabulary_that_does_not_divide_is_cut_without_padding():
    config = ModelConfig(num_layers=2, hidden_size=8, num_heads=2, vocab_size=10)
    shape = layout.parameter_shape("word_embedding.weight", config)
    parts = [layout.tensor_slice("word_embedding.weight", shape, rank, 4) for rank in range(4)]
    assert [part[0] for part in parts] == [(0, 3), (3, 6), (6, 9), (9, 10)]


slices = st.tuples(st.integers(0, 9), st.integers(0, 9)).map(lambda x: (min(x), max(x) + 1))


@given(a=slices, b=slices)
def test_the_intersection_holds_exactly_the_common_rows(a, b):
    common = layout.intersect((a,), (b,))
    rows = set(range(*a)) & set(range(*b))
    assert set(range(*common[0]) if common else ()) == rows
    if common:
        assert list(range(*a))[layout.relative(common, (a,))[0]] == sorted(rows)
        assert layout.num_elements(common) == len(rows)
