"""The original's learning-rate schedules."""

import math

import pytest

from pangu_core.config.train import OptimizerConfig
from pangu_core.training.schedule import learning_rate

COSINE = OptimizerConfig(learning_rate=1.5e-4, min_learning_rate=1e-5, warmup=0.01)


def test_the_rate_rises_linearly_to_its_peak():
    assert learning_rate(1, COSINE, 10_000) == pytest.approx(1.5e-6)
    assert learning_rate(50, COSINE, 10_000) == pytest.approx(7.5e-5)
    assert learning_rate(100, COSINE, 10_000) == pytest.approx(1.5e-4)


def test_the_cosine_is_the_originals():
    expected = 1.5e-4 / 2 * (math.cos(math.pi * (5_000 - 100) / 10_000) + 1)
    assert learning_rate(5_000, COSINE, 10_000) == pytest.approx(expected)


def test_the_rate_never_falls_below_the_floor():
    assert learning_rate(10_000, COSINE, 10_000) == 1e-5
    assert learning_rate(50_000, COSINE, 10_000) == 1e-5


def test_a_line_and_a_constant():
    line = COSINE.model_copy(update={"schedule": "linear", "warmup": 0.0})
    assert learning_rate(2_500, line, 10_000) == pytest.approx(1.5e-4 * 0.75)
    flat = COSINE.model_copy(update={"schedule": "constant"})
    assert learning_rate(9_999, flat, 10_000) == 1.5e-4


@pytest.mark.parametrize(("schedule", "share"), [("linear", 0.2), ("cosine", 0.0954915)])
def test_the_decay_ends_a_warm_up_early_as_the_originals(schedule, share):
    """t = min(step, end - warm) - warm, so at the end 800 of 1,000 steps have counted."""
    config = OptimizerConfig(
        learning_rate=1.0, min_learning_rate=0.0, warmup=0.1, schedule=schedule
    )
    assert learning_rate(1_000, config, 1_000) == pytest.approx(share)
    assert learning_rate(900, config, 1_000) == pytest.approx(share)
    assert learning_rate(850, config, 1_000) > share


def test_decay_steps_may_differ_from_the_run():
    config = COSINE.model_copy(update={"decay_steps": 1_000})
    assert learning_rate(1_000, config, 10_000) == learning_rate(1_000, COSINE, 1_000)
