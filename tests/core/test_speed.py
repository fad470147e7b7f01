"""Tokens a second, as reported: steps only."""

import pytest

from pangu_core.training.loop import Speed


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_first_step_and_what_came_before_it_do_not_count():
    clock = Clock()
    speed = Speed(clock)
    clock.now = 50.0
    assert speed.count(1_000) is None
    clock.now = 51.0
    assert speed.count(1_000) == pytest.approx(1_000)


def test_saving_does_not_count():
    clock = Clock()
    speed = Speed(clock)
    for clock.now in (0.0, 1.0):
        speed.count(1_000)
    clock.now = 60.0
    speed.restart()
    clock.now = 61.0
    assert speed.count(1_000) == pytest.approx(1_000)


def test_speed_is_smoothed_over_steps():
    clock = Clock()
    speed = Speed(clock)
    for clock.now in (0.0, 1.0):
        speed.count(1_000)
    clock.now = 3.0
    assert speed.count(1_000) == pytest.approx(1_000 / 1.1)
