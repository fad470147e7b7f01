"""Settings: published sizes, rules with four-part messages, and the way through YAML."""

import pytest

from pangu_core.config.model import PRESETS, ModelConfig
from pangu_core.config.stages import DataSettings
from pangu_core.config.train import NodesConfig, TrainSettings
from pangu_core.errors import ConfigError
from pangu_core.loading import dump_yaml, load, parse_yaml


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [("350M", 345_368_576), ("2.6B", 2_625_295_360), ("13B", 12_800_870_400)],
)
def test_a_preset_has_the_published_number_of_parameters(preset, parameters):
    assert PRESETS[preset].num_parameters == parameters


def test_heads_that_do_not_divide_the_hidden_size_are_refused_with_the_choices():
    with pytest.raises(ConfigError) as caught:
        ModelConfig(num_layers=2, hidden_size=12, num_heads=5)
    assert caught.value.subject == "model.numHeads"
    assert caught.value.seen == 5
    assert "[1, 2, 3, 4, 6, 12]" in str(caught.value)


@pytest.mark.parametrize(("m", "p", "unit"), [(1, 8, 1), (8, 8, 1), (4, 2, 2), (2, 1, 2)])
def test_the_node_unit_is_the_fewest_nodes_with_whole_tensor_groups(m, p, unit):
    nodes = NodesConfig(min=unit, max=4 * unit, processes_per_node=p)
    settings = TrainSettings(steps=1, global_batch_size=1, tensor_parallel=m, nodes=nodes)
    assert settings.node_unit == unit


@pytest.mark.parametrize(("m", "p"), [(2, 3), (4, 6), (3, 2)])
def test_tensor_groups_that_straddle_nodes_unevenly_are_refused(m, p):
    nodes = NodesConfig(min=6, max=6, processes_per_node=p)
    with pytest.raises(ConfigError, match=r"must divide nodes\.processesPerNode"):
        TrainSettings(steps=1, global_batch_size=1, tensor_parallel=m, nodes=nodes)


def test_a_node_count_that_is_no_multiple_of_the_unit_is_refused():
    nodes = NodesConfig(min=2, max=3, processes_per_node=1)
    with pytest.raises(ConfigError, match=r"train.nodes.max: 3.*use a multiple of 2 nodes"):
        TrainSettings(steps=1, global_batch_size=1, tensor_parallel=2, nodes=nodes)


def test_min_above_max_is_refused():
    with pytest.raises(ConfigError, match=r"must not exceed train.nodes.max \(1\)"):
        NodesConfig(min=2, max=1)


@pytest.mark.parametrize("split", ["", "a,b", "1,2,3,4", "-1,2", "0,0,0", "nan,1"])
def test_a_split_that_makes_no_shares_is_refused(split):
    with pytest.raises(ConfigError, match=r"data\.split"):
        DataSettings(split=split)


def test_a_split_becomes_shares_that_sum_to_one():
    assert DataSettings(split="949,50,1").shares == (0.949, 0.05, 0.001)
    assert DataSettings(split="95,5").shares == (0.95, 0.05, 0.0)


def test_an_unknown_key_is_named_with_the_nearest_valid_one():
    values = {"steps": 1, "globalBatchSize": 1, "optimizer": {"lerningRate": 1}}
    with pytest.raises(ConfigError) as caught:
        load(TrainSettings, values, prefix="spec.train")
    assert caught.value.subject == "spec.train.optimizer.lerningRate"
    assert caught.value.fix == "did you mean learningRate?"


def test_settings_come_back_from_yaml_as_they_were():
    settings = TrainSettings(steps=7, global_batch_size=3, precision="fp32", micro_batch_size=2)
    assert load(TrainSettings, parse_yaml(dump_yaml(settings.dump()), "test")[0]) == settings


@pytest.mark.parametrize("value", ["5", True, 3.0, 2**31, 10**40, 0])
def test_a_count_is_a_whole_number_of_a_sane_size(value):
    with pytest.raises(ConfigError, match=r"^train.steps: "):
        load(TrainSettings, {"steps": value, "globalBatchSize": 1}, "train")


def test_sizes_have_a_bound_below_that_of_counts():
    with pytest.raises(ConfigError, match=r"numLayers: 16777216: .* less than 16777216"):
        load(ModelConfig, {"numLayers": 2**24, "hiddenSize": 1, "numHeads": 1})


def test_types_are_strict_but_a_whole_number_may_stand_for_a_fraction():
    values = {"steps": 1, "globalBatchSize": 1, "optimizer": {"clipGradNorm": 1}}
    assert load(TrainSettings, values).optimizer.clip_grad_norm == 1.0
    with pytest.raises(ConfigError, match="recompute: yes: input should be a valid boolean"):
        load(TrainSettings, {**values, "recompute": "yes"})
