"""The original's parameter names: every generation is understood, nothing else is."""

import pytest

from pangu_core.checkpoint.formats.mindspore.names import (
    is_pipeline_graph,
    key_of_original,
    original_of_key,
    spellings,
)
from pangu_core.checkpoint.formats.mindspore.strategy import read_strategy
from pangu_core.config.model import PRESETS
from pangu_core.layout import parameter_names


@pytest.mark.parametrize("group", ["model", "exp_avg", "exp_avg_sq"])
def test_every_spelling_of_every_parameter_is_understood(group):
    for parameter in parameter_names(4):
        prefix = original_of_key(f"{group}/ln_f.bias").removesuffix("backbone.layernorm.beta")
        for spelling in spellings(parameter):
            assert key_of_original(f"{prefix}{spelling}") == f"{group}/{parameter}"


@pytest.mark.parametrize(
    "name",
    [
        "global_step",
        "adam_m",
        "backbone.blocks.01.layernorm1.gamma",
        "backbone.blocks.-1.layernorm1.gamma",
        "backbone.blocks.1.layernorm3.gamma",
        "backbone.top_query_layer.",
        "layernorm1.gamma",
        "adam_m.adam_v.backbone.layernorm.beta",
        "accu_grads.backbone.layernorm.beta",
    ],
)
def test_other_names_are_no_weights(name):
    assert key_of_original(name) is None


@pytest.mark.parametrize(
    "name",
    [
        "blocks.63.layernorm1.gamma",
        "adam_v.blocks.0.attention.dense1.weight",
        "backbone.pangu_alpha_embedding.position_embedding.embedding_table",
    ],
)
def test_the_200b_graph_is_known_by_its_names(name):
    assert is_pipeline_graph(["embedding_table", name])
    assert not is_pipeline_graph(["embedding_table", "backbone.blocks.0.layernorm1.gamma"])


@pytest.mark.shared
@pytest.mark.parametrize(
    ("preset", "file"),
    [("2.6B", "pangu_alpha_2.6B_ckpt_strategy"), ("13B", "pangu_alpha_13B_cktp_strategy")],
)
def test_the_released_strategies_list_exactly_our_parameters(shared, preset, file):
    names = read_strategy(shared / "data" / "mindspore_strategy" / f"{file}.ckpt")
    expected = {
        f"{group}/{parameter}"
        for group in ("model", "exp_avg", "exp_avg_sq")
        for parameter in parameter_names(PRESETS[preset].num_layers)
    }
    assert {key_of_original(name) for name in names} == expected
    assert len(names) == len(expected)
