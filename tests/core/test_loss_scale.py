"""The dynamic loss scale follows Megatron's rules."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pangu_core.config.train import LossScaleConfig
from pangu_core.errors import ConfigError
from pangu_core.training.loss_scale import LossScale

SETTINGS = st.builds(
    LossScaleConfig,
    initial=st.integers(4, 16).map(lambda power: 2.0**power),
    minimum=st.integers(0, 4).map(lambda power: 2.0**power),
    window=st.integers(1, 6),
    hysteresis=st.integers(1, 4),
)
STEPS = st.lists(st.booleans(), max_size=120)  # True: an overflow


def walk(settings: LossScaleConfig, steps: list[bool]) -> list[LossScale]:
    scales = [LossScale.start(settings)]
    for overflow in steps:
        scales.append(scales[-1].update(overflow, settings))
    return scales


class Megatron:
    """DynamicGradScaler as it is there, with its counters."""

    def __init__(self, settings: LossScaleConfig) -> None:
        self.settings, self.scale = settings, settings.initial
        self.growth_tracker, self.hysteresis_tracker = 0, settings.hysteresis

    def update(self, found_inf: bool) -> None:
        if found_inf:
            self.growth_tracker = 0
            self.hysteresis_tracker -= 1
            if self.hysteresis_tracker <= 0:
                self.scale = max(self.scale * 0.5, self.settings.minimum)
            return
        self.growth_tracker += 1
        if self.growth_tracker == self.settings.window:
            self.growth_tracker, self.hysteresis_tracker = 0, self.settings.hysteresis
            self.scale *= 2.0


@given(SETTINGS, STEPS)
def test_every_walk_is_megatrons(settings, steps):
    theirs = Megatron(settings)
    for overflow, ours in zip(steps, walk(settings, steps)[1:], strict=True):
        theirs.update(overflow)
        assert ours.scale == theirs.scale


@given(SETTINGS, STEPS)
def test_the_scale_never_falls_below_the_minimum(settings, steps):
    assert all(scale.scale >= settings.minimum for scale in walk(settings, steps))


@given(SETTINGS, STEPS)
def test_the_scale_moves_by_powers_of_two(settings, steps):
    """So that unscaling is exact."""
    for scale in walk(settings, steps):
        assert math.frexp(scale.scale / settings.initial)[0] == 0.5


@given(SETTINGS, STEPS)
def test_only_at_its_end_does_an_overflow_leave_a_halving_undone(settings, steps):
    for scale in walk(settings, steps):
        after = scale.update(True, settings)
        is_undone = after.overflows_left == 0 and after.scale == scale.scale
        assert scale.is_at_its_end(settings) == is_undone


def test_the_second_overflow_halves_at_a_hysteresis_of_two():
    scales = walk(LossScaleConfig(), [True, True, True])
    assert [scale.scale for scale in scales] == [65_536.0, 65_536.0, 32_768.0, 16_384.0]


def test_growth_makes_the_hysteresis_whole_again():
    settings = LossScaleConfig(initial=8.0, window=2)
    scales = walk(settings, [True, True, False, False, True])
    assert [scale.scale for scale in scales[2:]] == [4.0, 4.0, 8.0, 8.0]


def test_an_overflow_starts_the_window_anew():
    settings = LossScaleConfig(initial=8.0, window=3)
    assert walk(settings, [False, False, True, False, False])[-1].scale == 8.0


def test_a_minimum_above_the_initial_scale_is_refused():
    with pytest.raises(ConfigError, match=r"train\.lossScale\.minimum"):
        LossScaleConfig(initial=2.0, minimum=4.0)
