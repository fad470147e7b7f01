"""What happened in a run, read from its metrics.jsonl: the steps that count, and the restarts.

A run that lost a process goes on from its newest checkpoint; the lines of later steps stay in the
file although that work is done again. The ``start`` event of each round says where to cut. Pure.
"""

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Event = Mapping[str, Any]


@dataclass(frozen=True)
class Step:
    """One logged optimizer step; ``time`` is in unix seconds, as everywhere here."""

    time: float
    step: int
    loss: float  # nats a token
    learning_rate: float
    tokens_per_second: float  # NaN for a round's first step, which has no speed
    tokens: int  # seen so far
    round: int  # counts the starts, from 0
    mfu: float | None = None
    survives: bool = True  # False: a later start fell back behind it


@dataclass(frozen=True)
class Evaluation:
    """One loss on held-out text, in nats a token."""

    time: float
    step: int
    loss: float


@dataclass(frozen=True)
class Save:
    """One checkpoint, and how long writing it took."""

    time: float
    step: int
    seconds: float


@dataclass(frozen=True)
class Restart:
    """One interruption: training went on from a checkpoint."""

    silent_since: float  # the last line before
    step: int  # the one resumed from
    steps_redone: int  # known from logged steps: work between the last log line and the end is not
    world_size: int
    resumed_at: float | None  # the first step logged after; None: none yet

    @property
    def silent_seconds(self) -> float | None:
        """Seconds from the last line before the interruption to the next step."""
        return None if self.resumed_at is None else self.resumed_at - self.silent_since


@dataclass(frozen=True)
class History:
    """A run's events in the order in which they happened."""

    all_steps: tuple[Step, ...] = ()  # those done again included
    evaluations: tuple[Evaluation, ...] = ()
    saves: tuple[Save, ...] = ()
    restarts: tuple[Restart, ...] = ()
    world_sizes: tuple[int, ...] = ()  # of each start
    planned_steps: int | None = None
    started_at: float = 0.0
    ended_at: float = 0.0

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps that made the model."""
        return tuple(step for step in self.all_steps if step.survives)

    @property
    def seconds(self) -> float:
        """Wall time from the first event to the last, interruptions included."""
        return self.ended_at - self.started_at


def read_events(lines: Iterable[str]) -> list[Event]:
    """The events among the lines of a metrics file.

    A writer that was killed, or a full disk, can leave half a line, to which the next writer's
    first line is joined: that one is kept, the half is not.
    """
    return [event for event in map(_parse, lines) if event is not None]


def read_history(events: Sequence[Event]) -> History:
    """Put a run's events together; those of unknown kinds are passed over."""
    if not events:
        return History()
    rounds = list(_rounds(events))
    # A step counts unless a later round began before it.
    limits = [min((_resumed(r) for r in rounds[i + 1 :]), default=None) for i in range(len(rounds))]
    steps: list[Step] = []
    evaluations: list[Evaluation] = []
    saves: list[Save] = []
    for number, (part, limit) in enumerate(zip(rounds, limits, strict=True)):
        for event in part:
            survives = limit is None or event.get("step", 0) <= limit
            if event["event"] == "step":
                steps.append(_step(event, number, survives))
            elif event["event"] == "evaluate" and survives:
                loss = event["validation_loss"]
                evaluations.append(Evaluation(event["time"], event["step"], loss))
            elif event["event"] == "save" and survives:
                saves.append(Save(event["time"], event["step"], event["seconds"]))
    starts = [event for event in events if event["event"] == "start"]
    return History(
        all_steps=tuple(steps),
        evaluations=tuple(evaluations),
        saves=tuple(saves),
        restarts=tuple(_restart(*pair) for pair in itertools.pairwise(rounds)),
        world_sizes=tuple(event["world_size"] for event in starts),
        planned_steps=starts[-1].get("steps") if starts else None,
        started_at=events[0]["time"],
        ended_at=events[-1]["time"],
    )


def smoothed(values: Sequence[float], keep: float = 0.9) -> list[float]:
    """Exponential means; the first ones are not drawn towards 0."""
    result: list[float] = []
    total = weight = 0.0
    for value in values:
        total = keep * total + (1 - keep) * value
        weight = keep * weight + (1 - keep)
        result.append(total / weight)
    return result


def _parse(line: str) -> Event | None:
    for text in (line, line[max(line.rfind('{"time"'), 0) :]):
        try:
            event = json.loads(text)
        except ValueError:
            continue
        if isinstance(event, dict) and "time" in event and "event" in event:
            return event
    return None


def _rounds(events: Iterable[Event]) -> Iterator[list[Event]]:
    """The events from each start to before the next."""
    part: list[Event] = []
    for event in events:
        if event["event"] == "start" and part:
            yield part
            part = []
        part.append(event)
    yield part


def _resumed(part: Sequence[Event]) -> int:
    """The step that a round went on from."""
    return int(part[0].get("step", 0))


def _restart(before: Sequence[Event], after: Sequence[Event]) -> Restart:
    resumed = _resumed(after)
    reached = max((event.get("step", 0) for event in before), default=0)
    times = (event["time"] for event in after if event["event"] == "step")
    return Restart(
        silent_since=before[-1]["time"],
        step=resumed,
        steps_redone=max(0, reached - resumed),
        world_size=after[0].get("world_size", 0),
        resumed_at=next(times, None),
    )


def _step(event: Event, number: int, survives: bool) -> Step:
    return Step(
        time=event["time"],
        step=event["step"],
        loss=event["loss"],
        learning_rate=event["learning_rate"],
        tokens_per_second=_number(event["tokens_per_second"]),
        tokens=event["tokens"],
        round=number,
        mfu=event.get("mfu"),
        survives=survives,
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else value
