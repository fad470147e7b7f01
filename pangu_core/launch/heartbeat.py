"""What a rank says while it works, and when its silence counts as a stall. Pure."""

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

# Steps whose durations make the median, and how many make it worth believing.
WINDOW: Final = 20
ENOUGH: Final = 3
# Floors of the step limit that a declared phase may take.
PHASE_FLOORS: Final = 20
# Before a rank's first step: no boundary to stop at, and nothing to save.
_EARLY: Final = ("start", "compile")


@dataclass(frozen=True)
class Pulse:
    """A rank's latest heartbeat and the times of those before."""

    started_at: float
    phase: str = "start"
    step: int = 0
    steps: int = 0
    loss: float | None = None
    validation_loss: float | None = None
    tokens_per_second: float | None = None
    skipped: int | None = None
    output: str | None = None
    manifest_sha256: str | None = None
    beats: int = 0
    heard_at: float | None = None
    stepped_at: float | None = None
    step_seconds: tuple[float, ...] = field(default=(), repr=False)

    @property
    def is_training(self) -> bool:
        """Whether the rank has a state worth saving, and stops at a step boundary if asked."""
        return self.phase not in _EARLY

    @property
    def is_stepping(self) -> bool:
        """Whether the rank goes from step to step: all that is slow at the start is behind it."""
        return self.phase == "step" and bool(self.step_seconds)

    def silence_seconds(self, now: float) -> float:
        """Time since the last sign of life."""
        return now - (self.started_at if self.heard_at is None else self.heard_at)


@dataclass(frozen=True)
class StallLimits:
    """Seconds of silence that make a stall, by phase."""

    floor: float = 5.0
    factor: float = 5.0
    other: float = 300.0  # start, compile, evaluate, save; and steps before the median is known

    @classmethod
    def following(cls, floor: float, *, factor: float) -> Self:
        """Limits whose declared phases grow with the floor, for a slow volume or a large model."""
        return cls(floor=floor, factor=factor, other=max(cls.other, PHASE_FLOORS * floor))

    def limit(self, pulse: Pulse) -> float:
        """The limit for a rank in this state."""
        return self._step(pulse) if pulse.phase == "step" else self.other

    def leave(self, pulse: Pulse) -> float:
        """The time for a rank to leave at the next step boundary: one step, then a save."""
        return self._step(pulse) + self.other

    def _step(self, pulse: Pulse) -> float:
        if len(pulse.step_seconds) < ENOUGH:
            return self.other
        return max(self.floor, self.factor * statistics.median(pulse.step_seconds))


def hear(pulse: Pulse, line: bytes, now: float) -> Pulse:
    """Take in one line; garbage counts for nothing."""
    try:
        values = json.loads(line)
    except ValueError:
        return pulse
    if not isinstance(values, dict) or not isinstance(values.get("phase"), str):
        return pulse
    step, skipped = _number(values, "step"), _number(values, "skipped")
    durations = pulse.step_seconds
    steady = pulse.phase == "step" and values["phase"] == "step"
    # Lines heard at one time piled up while the launcher was stopped: they tell no duration.
    if steady and pulse.heard_at is not None and now > pulse.heard_at:
        durations = (*durations, now - pulse.heard_at)[-WINDOW:]
    return replace(
        pulse,
        phase=values["phase"],
        step=int(step) if step is not None else pulse.step,
        steps=int(_number(values, "steps") or pulse.steps),
        loss=_latest(values, "loss", pulse.loss),
        validation_loss=_latest(values, "validation_loss", pulse.validation_loss),
        tokens_per_second=_latest(values, "tokens_per_second", pulse.tokens_per_second),
        skipped=int(skipped) if skipped is not None else pulse.skipped,
        output=values.get("output", pulse.output),
        manifest_sha256=values.get("manifest_sha256", pulse.manifest_sha256),
        beats=pulse.beats + 1,
        heard_at=now,
        stepped_at=now if step is not None and step > pulse.step else pulse.stepped_at,
        step_seconds=durations,
    )


def _number(values: Mapping[str, Any], key: str) -> float | None:
    value = values.get(key)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _latest(values: Mapping[str, Any], key: str, before: float | None) -> float | None:
    value = _number(values, key)
    return before if value is None else value
