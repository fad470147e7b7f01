"""One measurement: start a gang, strike, wait for what comes after."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.elastic.cases import CALM_SECONDS, Case
from bench.elastic.pods import started_at
from bench.elastic.stacks import HIGH, Fleet, Stack, Step

LOOK_SECONDS: Final = 0.05
WATCH_SECONDS: Final = 12.0  # how long a gang is watched that should go on; twice the store's 5 s
START_SECONDS: Final = 120.0


@dataclass(frozen=True)
class Result:
    """What one run of one case gave."""

    case: str
    stack: str
    seconds: float | None  # None: no step of a new gang within the limit
    started_seconds: float | None  # from the pods' start to the first step
    is_undisturbed: bool = False  # then ``seconds`` is the longest step
    worlds: tuple[int, ...] = ()  # sizes that stepped after the fault, in order
    # Seconds from the fault until the new gang's last rank was there.
    timeline: dict[str, float] = field(default_factory=dict)


class CancelledError(Exception):
    """Someone wants the whole to end."""


class Turn:
    """The right to keep the machine busy; given up by whoever only waits.

    Args:
        patience_seconds: how long one waits before the others may go on; None: for ever.
    """

    def __init__(self, patience_seconds: float | None) -> None:
        self.patience_seconds = patience_seconds
        self.cancelled = threading.Event()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def taken(self) -> Iterator[Callable[[], None]]:
        """Hold the turn; yields the function that gives it up early."""
        self._lock.acquire()
        is_held = True

        def give_up() -> None:
            nonlocal is_held
            if is_held:
                is_held = False
                self._lock.release()

        try:
            yield give_up
        finally:
            give_up()


class Trial:
    """One case on one stack."""

    def __init__(self, case: Case, stack: Stack, *, limit_seconds: float, turn: Turn) -> None:
        self.case, self.stack = case, stack
        self._limit_seconds, self._turn = limit_seconds, turn

    def run(self, folder: Path) -> Result:
        """Measure; ends all processes it started, whatever happens."""
        with self._turn.taken() as self._give_up:
            if self._turn.cancelled.is_set():
                raise CancelledError
            fleet = Fleet(self.stack, folder, grows=self.case.measure == "larger")
            try:
                return self._run(fleet)
            finally:
                fleet.close()

    def _run(self, fleet: Fleet) -> Result:
        begin = time.time()
        fleet.add_trainers(self.case.nodes)
        first = self._wait(
            fleet, lambda steps: self._settled(steps) if fleet.is_ready() else None, START_SECONDS
        )
        if first is None:
            return Result(self.case.name, self.stack.name, None, None)
        struck = time.time()
        self.case.strike(fleet)
        if self.case.measure == "undisturbed":
            return self._watch(fleet, struck, first.time - begin)
        found = self._wait(fleet, lambda steps: self._renewed(steps, struck), self._limit_seconds)
        timeline = _timeline(fleet, struck, found) if found else {}
        return self._result(
            fleet, struck, first.time - begin, found.time - struck if found else None, timeline
        )

    def _watch(self, fleet: Fleet, struck: float, started: float) -> Result:
        """The gang should go on: its longest step since the fault, else the time to a new one."""
        self._wait(fleet, lambda _: None, WATCH_SECONDS)
        times = [s.time for s in fleet.steps() if s.begun < struck]
        times = [max(t for t in times if t <= struck), *(t for t in times if t > struck)]
        longest = max(
            b - a for a, b in zip(times, [*times[1:], struck + WATCH_SECONDS], strict=True)
        )
        if longest < CALM_SECONDS:
            return self._result(fleet, struck, started, longest, {}, is_undisturbed=True)
        found = self._wait(fleet, lambda steps: self._renewed(steps, struck), self._limit_seconds)
        return self._result(fleet, struck, started, found.time - struck if found else None, {})

    def _result(
        self,
        fleet: Fleet,
        struck: float,
        started: float,
        seconds: float | None,
        timeline: dict[str, float],
        *,
        is_undisturbed: bool = False,
    ) -> Result:
        worlds = [step.world for step in fleet.steps() if step.time > struck]
        changes = [w for i, w in enumerate(worlds) if i == 0 or worlds[i - 1] != w]
        return Result(
            case=self.case.name,
            stack=self.stack.name,
            seconds=seconds,
            started_seconds=started,
            is_undisturbed=is_undisturbed,
            worlds=tuple(changes),
            timeline=timeline,
        )

    def _settled(self, steps: list[Step]) -> Step | None:
        """The first step of a gang of the wanted size that has stepped long enough."""
        gang = [s for s in steps if steps[-1].begun == s.begun and s.world == self.case.nodes]
        is_old = gang and gang[-1].time - gang[0].time >= self.case.settled_seconds
        return gang[0] if is_old else None

    def _renewed(self, steps: list[Step], struck: float) -> Step | None:
        size = HIGH if self.case.measure == "larger" else 1
        return next((s for s in steps if s.begun > struck and s.world >= size), None)

    def _wait(
        self, fleet: Fleet, look: Callable[[list[Step]], Step | None], seconds: float
    ) -> Step | None:
        """Play kubelet until a step is found or the time is over."""
        begin, patience = time.monotonic(), self._turn.patience_seconds
        while (waited := time.monotonic() - begin) < seconds:
            if self._turn.cancelled.is_set():
                raise CancelledError
            fleet.tick()
            if (found := look(fleet.steps())) is not None:
                return found
            if patience is not None and waited > patience:
                self._give_up()
            time.sleep(LOOK_SECONDS)
        return None


def _timeline(fleet: Fleet, struck: float, found: Step) -> dict[str, float]:
    """When the last rank of the new gang was started, had imported torch, had joined, stepped."""
    times: dict[str, float] = {}
    for pod in fleet.trainers:
        with contextlib.suppress(OSError, RuntimeError):  # not every pod is part of the gang
            begun = started_at(pod.rank_pid())
            if begun > struck:  # it was no spare
                times["started"] = max(begun, times.get("started", 0.0))
    if fleet.stack.trains:
        times["loaded"] = found.begun
    for line in fleet.noted():
        if line["event"] in ("imported", "joined") and struck < line["time"] <= found.time:
            times[line["event"]] = max(line["time"], times.get(line["event"], 0.0))
    times["stepped"] = found.time
    return {event: round(at - struck, 2) for event, at in times.items()}
