"""What counts in a run's metrics, and what was done again."""

import json
import math
from collections.abc import Iterable
from typing import Any

import pytest

from pangu_core.reporting.history import History, read_events, read_history, smoothed


def step(number: int, time: float, loss: float = 8.0) -> dict[str, Any]:
    rest = {"learning_rate": 0.001, "tokens_per_second": 100.0, "tokens": number * 10, "mfu": None}
    return {"time": time, "event": "step", "step": number, "loss": loss, **rest}


def start(number: int, time: float, world_size: int = 2) -> dict[str, Any]:
    sizes = {"steps": 9, "round": 1, "world_size": world_size}
    return {"time": time, "event": "start", "step": number, **sizes}


def save(number: int, time: float) -> dict[str, Any]:
    return {"time": time, "event": "save", "step": number, "seconds": 0.5}


def evaluate(number: int, time: float, loss: float) -> dict[str, Any]:
    return {"time": time, "event": "evaluate", "step": number, "validation_loss": loss}


def history(*events: dict[str, Any]) -> History:
    return read_history(read_events(map(json.dumps, events)))


def numbers(items: Iterable[Any]) -> list[int]:
    return [item.step for item in items]


KILLED = (
    start(0, 100.0),
    step(1, 101.0),
    step(2, 102.0),
    save(2, 102.5),
    step(3, 103.0, loss=7.0),
    evaluate(3, 103.2, 7.5),
    step(4, 104.0),
    start(2, 110.0, world_size=1),
    step(3, 112.0, loss=7.1),
    evaluate(3, 112.2, 7.6),
    step(4, 113.0),
)


def test_work_that_was_done_again_is_cut() -> None:
    run = history(*KILLED)
    assert numbers(run.steps) == [1, 2, 3, 4]
    assert [s.loss for s in run.steps][2] == 7.1
    assert numbers(run.all_steps) == [1, 2, 3, 4, 3, 4]
    assert [(e.step, e.loss) for e in run.evaluations] == [(3, 7.6)]
    assert numbers(run.saves) == [2]


def test_a_restart_knows_its_step_its_cost_and_its_silence() -> None:
    [restart] = history(*KILLED).restarts
    assert (restart.step, restart.steps_redone, restart.world_size) == (2, 2, 1)
    assert (restart.silent_since, restart.resumed_at, restart.silent_seconds) == (104.0, 112.0, 8.0)


def test_wall_time_runs_through_interruptions() -> None:
    run = history(*KILLED)
    assert run.seconds == 13.0
    assert (run.world_sizes, run.planned_steps) == ((2, 1), 9)


def test_a_later_start_further_back_cuts_both_rounds_before() -> None:
    run = history(*KILLED, start(1, 120.0), step(2, 121.0))
    assert numbers(run.steps) == [1, 2]
    assert [restart.steps_redone for restart in run.restarts] == [2, 3]
    assert run.saves == run.evaluations == ()


def test_a_clean_stop_loses_nothing() -> None:
    run = history(start(0, 0.0), step(1, 1.0), save(1, 1.5), start(1, 9.0), step(2, 10.0))
    assert numbers(run.steps) == [1, 2]
    assert (run.restarts[0].steps_redone, run.restarts[0].silent_seconds) == (0, 8.5)


def test_a_round_that_died_before_its_first_step_took_no_step_away() -> None:
    run = history(*KILLED[:7], start(2, 110.0), start(2, 120.0), step(3, 121.0))
    assert [restart.steps_redone for restart in run.restarts] == [2, 0]
    assert run.restarts[0].silent_seconds is None


def test_a_run_without_events_has_an_empty_history() -> None:
    assert history() == History()
    assert history(start(0, 5.0)).steps == ()


def test_half_a_line_does_not_take_the_next_one_along() -> None:
    whole = json.dumps(step(1, 1.0))
    events = read_events([whole[:20], whole[:30] + json.dumps(start(0, 2.0)), "", "[1]", whole])
    assert [event["event"] for event in events] == ["start", "step"]


def test_smoothing_keeps_a_constant_and_is_not_drawn_towards_zero() -> None:
    assert smoothed([8.0] * 5) == pytest.approx([8.0] * 5)
    assert smoothed([10.0, 0.0]) == pytest.approx([10.0, 10 * 0.09 / 0.19])


def test_a_first_step_has_no_speed() -> None:
    line = {
        "time": 1.0, "event": "step", "step": 1, "loss": 9.0, "learning_rate": 0.1,
        "grad_norm": 1.0, "tokens_per_second": None, "mfu": None, "tokens": 8, "epoch": 0,
        "round": 1, "world_size": 2,
    }  # fmt: skip
    [step] = read_history(read_events([json.dumps(line)])).steps
    assert math.isnan(step.tokens_per_second)
