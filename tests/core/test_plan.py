"""What follows from the settings before a step runs."""

import pytest

from pangu_core.config.model import PRESETS, ModelConfig
from pangu_core.config.stages import TrainConfig
from pangu_core.errors import ConfigError
from pangu_core.training.plan import settle

TINY = PRESETS["tiny"]


def config(**train) -> TrainConfig:
    train = {"steps": 10, "globalBatchSize": 64, **train}
    return TrainConfig.model_validate(
        {"run": {"name": "r", "uid": "u"}, "tokenFiles": "t", "train": train}
    )


def test_heads_not_divisible_by_the_tensor_size_are_refused_with_the_choices():
    with pytest.raises(ConfigError, match=r"numHeads: 4.*tensorParallel to one of \[1, 2, 4\]"):
        settle(config(tensorParallel=3, nodes={"min": 3, "max": 3}), TINY, None)


def test_a_sequence_longer_than_the_position_table_is_refused():
    with pytest.raises(ConfigError, match=r"sequenceLength: 257.*position table \(256\)"):
        settle(config(sequenceLength=257), TINY, None)


def test_a_sequence_that_sequence_parallelism_cannot_cut_evenly_is_refused():
    uneven = {"sequenceLength": 255, "tensorParallel": 2, "nodes": {"min": 2, "max": 2}}
    assert settle(config(**uneven), TINY, None).sequence_length == 255
    with pytest.raises(ConfigError, match=r"sequenceLength: 255.*Parallel \(2\).*use 254"):
        settle(config(**uneven, sequenceParallel=True), TINY, None)


def test_a_micro_batch_larger_than_the_global_batch_is_refused():
    with pytest.raises(ConfigError, match="microBatchSize: 65"):
        settle(config(microBatchSize=65), TINY, None)


def test_auto_leaves_every_data_rank_of_the_largest_world_a_share():
    nodes = {"min": 1, "max": 4, "processesPerNode": 8}
    assert settle(config(nodes=nodes), TINY, None).micro_batch_size == 2


def test_auto_keeps_what_an_earlier_attempt_used():
    assert settle(config(), TINY, 4).micro_batch_size == 4
    assert settle(config(microBatchSize=8), TINY, 4).micro_batch_size == 8


def test_auto_grows_with_short_sequences_only():
    long = ModelConfig(num_layers=2, hidden_size=8, num_heads=2, sequence_length=4096)
    assert settle(config(), long, None).micro_batch_size == 1
    assert settle(config(), TINY, None).micro_batch_size == 16
