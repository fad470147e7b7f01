"""Random lives of real gangs: agents and ranks come, go, freeze; what remains must be exact.

A schedule is a function of its seed, but for the moments at which things happen to meet. After
it, every sample must have been used exactly once in the history that survived, the final tensors
must be those of a run that nothing disturbed, and every world must have held whole
tensor-parallel groups.
"""

import contextlib
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from tests.elastic.gang import Gang

TOLERANCE: Final = 1e-9  # of float64 parameters: sums over another number of ranks round otherwise
ACTIONS_EACH: Final = 6
REST_SECONDS: Final = 3.0
END_SECONDS: Final = 300.0
RANK_KILLS: Final = 3  # a launcher gives up after 5 deaths in a row without a new step
RESTARTED_FROM: Final = 128  # a pod that ends with such a code is started again
STEP_SECONDS: Final = 0.15  # at least: faults must find the gang at work
SETTINGS: Final[dict[str, Any]] = {"train": {"steps": 120, "hang": {"floorSeconds": 10.0}}}


@dataclass(frozen=True)
class Setup:
    """The shape of a gang: M, P, and how many launchers."""

    tensor_parallel: int
    processes: int
    low: int
    high: int

    @property
    def unit(self) -> int:
        """Launchers that hold a whole tensor-parallel group."""
        return max(1, self.tensor_parallel // self.processes)


SETUPS: Final = (Setup(1, 1, 1, 3), Setup(2, 1, 2, 4), Setup(2, 2, 1, 2), Setup(2, 1, 2, 6))


@dataclass(frozen=True)
class Reference:
    """What one rank gives that nothing happens to."""

    final: Mapping[str, np.ndarray]
    samples: Mapping[int, list[int]]  # by step


def undisturbed(folder: Path) -> Reference:
    """Train on one rank, in peace."""
    with Gang(folder, settings=SETTINGS) as gang:
        gang.start_store()
        gang.start("a")
        if gang.exits() != {"a": 0}:
            raise SystemExit(f"the undisturbed run failed\n{gang.tails()}")
        return Reference(gang.final(), gang.surviving_samples())


class Life:
    """One schedule on one gang."""

    def __init__(self, gang: Gang, setup: Setup, seed: int) -> None:
        self.gang, self.setup, self.draw = gang, setup, random.Random(seed)
        self.names = [chr(ord("a") + i) for i in range(setup.high + 1)]
        self.wanted = set(self.names[: setup.high])
        self.rank_kills = 0
        self.story: list[str] = []

    def live(self) -> None:
        """From the first start to the end of the last launcher.

        Raises:
            TimeoutError: it does not end.
        """
        self.gang.pace(step=STEP_SECONDS)
        self.gang.start_store()
        self.gang.start(*sorted(self.wanted))
        for _ in range(ACTIONS_EACH):
            self._rest()
            if self._is_over():
                break
            action = self.draw.choice(self._possible())
            self.story.append(action.__name__.strip("_"))
            action()
        limit = time.monotonic() + END_SECONDS
        while not self._is_over():
            self._tend()
            if time.monotonic() > limit:
                raise TimeoutError(f"no end in {END_SECONDS:.0f} s\n{self.gang.tails()}")
            time.sleep(0.1)

    def _is_over(self) -> bool:
        ends = [self.gang.launchers[n].poll() for n in self.wanted if n in self.gang.launchers]
        return bool(ends) and all(code is not None and code < RESTARTED_FROM for code in ends)

    def _rest(self) -> None:
        """Until another step, or for a moment: faults hit rendezvous and start-up too."""
        step = max((e["step"] for e in self.gang.metrics("step")), default=0)
        limit = time.monotonic() + (60.0 if self.draw.random() < 0.6 else 0.0)
        while time.monotonic() < limit and not self._is_over():
            self._tend()
            if max((e["step"] for e in self.gang.metrics("step")), default=0) > step:
                break
            time.sleep(0.1)
        time.sleep(self.draw.uniform(0.0, REST_SECONDS))
        self._tend()

    def _tend(self) -> None:
        """Play kubelet and controller: replace ended pods, never let the gang starve."""
        for name in sorted(self.wanted):
            launcher = self.gang.launchers.get(name)
            code = None if launcher is None else launcher.poll()
            if launcher is None or (code is not None and (code < 0 or code >= RESTARTED_FROM)):
                self.gang.start(name)

    def _possible(self) -> list[Callable[[], None]]:
        found = [self._replace_agent, self._stop_agent, self._terminate_agent, self._lose_store]
        if self.gang.ranks():
            found.append(self._stop_rank)
            found += [self._kill_rank] if self.rank_kills < RANK_KILLS else []
        if len(self.wanted) < len(self.names):
            found += [self._grow] * 2
        if len(self.wanted) > self.setup.low:
            found += [self._shrink] * 2
        return found

    def _any(self) -> str:
        """A launcher that runs."""
        running = [n for n in sorted(self.wanted) if self.gang.launchers[n].poll() is None]
        return self.draw.choice(running or sorted(self.wanted))

    def _kill_rank(self) -> None:
        self.rank_kills += 1
        self._signal_rank(signal.SIGKILL)

    def _stop_rank(self) -> None:
        self._signal_rank(signal.SIGSTOP)

    def _signal_rank(self, number: signal.Signals) -> None:
        ranks = self.gang.ranks()
        if ranks:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.draw.choice(ranks).pid, number)

    def _replace_agent(self) -> None:
        self.gang.kill(self._any())  # _tend starts its successor

    def _stop_agent(self) -> None:
        name = self._any()
        self.gang.send(name, signal.SIGSTOP)
        time.sleep(self.draw.uniform(0.0, 2 * REST_SECONDS))
        self.gang.send(name, signal.SIGCONT)

    def _terminate_agent(self) -> None:
        self.gang.send(self._any(), signal.SIGTERM)

    def _lose_store(self) -> None:
        self.gang.kill_store()
        time.sleep(self.draw.uniform(0.0, REST_SECONDS))
        self.gang.start_store()

    def _grow(self) -> None:
        self.wanted.add(next(n for n in self.names if n not in self.wanted))

    def _shrink(self) -> None:
        name = self._any()
        self.wanted.discard(name)
        if self.draw.random() < 0.5:
            self.gang.kill(name)
        else:
            self.gang.send(name, signal.SIGTERM)


def problems(gang: Gang, setup: Setup, expected: Reference) -> Iterator[str]:
    """What is wrong with a gang's end."""
    codes = {name: process.poll() for name, process in gang.launchers.items()}
    if not set(codes.values()) <= {0, 143, -signal.SIGKILL}:
        yield f"exit codes {codes}"
        return
    worlds = {event["world_size"] for event in gang.metrics("start")}
    nodes = {len(change.members) for change in gang.rounds()}
    if any(world % setup.tensor_parallel for world in worlds):
        yield f"worlds {sorted(worlds)} at tensor parallel {setup.tensor_parallel}"
    if any(n % setup.unit or not setup.low <= n <= setup.high for n in nodes):
        yield f"rounds of {sorted(nodes)} nodes, unit {setup.unit}"
    if gang.surviving_samples() != expected.samples:
        yield "a sample was used twice, or never"
    final = gang.final()
    if final.keys() != expected.final.keys():
        yield "other tensors"
        return
    worst = max(
        float(np.max(np.abs(final[key] - value), initial=0.0))
        for key, value in expected.final.items()
    )
    if not worst <= TOLERANCE:
        yield f"final tensors differ by {worst:.1e}"


def run(count: int, first_seed: int, folder: Path, say: Callable[[str], None]) -> int:
    """Live through so many schedules; returns how many had a problem."""
    say("the undisturbed run")
    expected = undisturbed(folder / "undisturbed")
    bad = 0
    for seed in range(first_seed, first_seed + count):
        setup = SETUPS[seed % len(SETUPS)]
        begin, place = time.monotonic(), folder / f"schedule-{seed}"
        wrong, story = _one(place, setup, seed, expected)
        shape = f"M={setup.tensor_parallel} P={setup.processes} {setup.low}:{setup.high}"
        end = "; ".join(wrong) or "exact"
        say(f"seed {seed}, {shape}, {time.monotonic() - begin:.0f} s: {' '.join(story)}: {end}")
        bad += bool(wrong)
        if not wrong:
            shutil.rmtree(place)
    return bad


def _one(folder: Path, setup: Setup, seed: int, expected: Reference) -> tuple[list[str], list[str]]:
    """One schedule: what is wrong with its end, and what happened."""
    gang = Gang(
        folder,
        tensor_parallel=setup.tensor_parallel,
        processes=setup.processes,
        low=setup.low,
        high=setup.high,
        settings=SETTINGS,
    )
    with gang:
        life = Life(gang, setup, seed)
        try:
            life.live()
        except TimeoutError as error:
            return [str(error)], life.story
        # Pods that were told to leave may still be on their way.
        gang.exits()
        return list(problems(gang, setup, expected)), life.story
