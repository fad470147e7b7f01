"""The faults: what is done to a gang, what is measured then, and the bars for ours."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from bench.elastic.stacks import GROWTH_SECONDS, Fleet

# renewed: seconds to the first step of a new gang
# larger: to the first step of a larger one
# undisturbed: the gang goes on; its longest step counts
Measure = Literal["renewed", "larger", "undisturbed"]
BAR_SECONDS: Final = 15.0
BEYOND_SECONDS: Final = 5.0
STALL_LIMIT_SECONDS: Final = 5.0  # max(floor, factor x step): 5 x 0.2 s is below the floor
CALM_SECONDS: Final = 1.0  # the longest step of a gang that a fault did not touch


@dataclass(frozen=True)
class Case:
    """A row of the table."""

    name: str
    title: str
    strike: Callable[[Fleet], None]
    measure: Measure = "renewed"
    nodes: int = 4
    settled_seconds: float = 1.0  # the gang has stepped so long when the fault comes
    beyond_seconds: float = BEYOND_SECONDS
    # In stock the first agent hosts the store: the same fault as another case's.
    stock_is: str | None = None
    note: str = ""


def _kill_rank(fleet: Fleet) -> None:
    os.kill(fleet.trainers[1].rank_pid(), signal.SIGKILL)


def _kill_agent(fleet: Fleet) -> None:
    os.kill(fleet.trainers[1].pid, signal.SIGKILL)


def _kill_first_agent(fleet: Fleet) -> None:
    os.kill(fleet.trainers[0].pid, signal.SIGKILL)


def _kill_store(fleet: Fleet) -> None:
    if fleet.store is not None:
        os.kill(fleet.store.pid, signal.SIGKILL)


def _stop_rank(fleet: Fleet) -> None:
    os.kill(fleet.trainers[1].rank_pid(), signal.SIGSTOP)


def _stop_agent(fleet: Fleet) -> None:
    os.kill(fleet.trainers[1].pid, signal.SIGSTOP)


def _terminate_agent(fleet: Fleet) -> None:
    fleet.trainers[1].terminate()


def _grow(fleet: Fleet) -> None:
    fleet.add_trainers(2)


def _lose_pod(fleet: Fleet) -> None:
    fleet.trainers[-1].is_replaced = lambda _: False
    os.kill(fleet.trainers[-1].pid, signal.SIGKILL)


CASES: Final = (
    Case("rank-killed", "rank killed (-9)", _kill_rank),
    Case("agent-killed", "agent killed (-9), not the first", _kill_agent),
    Case("first-agent-killed", "first agent killed (-9)", _kill_first_agent),
    Case(
        "store-killed",
        "rendezvous store killed (-9)",
        _kill_store,
        measure="undisturbed",
        stock_is="first-agent-killed",
    ),
    Case(
        "rank-stopped",
        "rank stopped (SIGSTOP)",
        _stop_rank,
        settled_seconds=3.0,
        beyond_seconds=STALL_LIMIT_SECONDS + BEYOND_SECONDS,
        note=f"found after {STALL_LIMIT_SECONDS:.0f} s of silence",
    ),
    Case("agent-stopped", "agent stopped (SIGSTOP)", _stop_agent, measure="undisturbed"),
    Case("agent-terminated", "agent terminated (SIGTERM)", _terminate_agent),
    Case(
        "grown",
        "two pods join two",
        _grow,
        measure="larger",
        nodes=2,
        settled_seconds=GROWTH_SECONDS + 1.0,
        note=f"from the pods' start; the round may grow after {GROWTH_SECONDS:.0f} s, not 30 s",
    ),
    Case("shrunk", "pod lost for good, 4 to fewer", _lose_pod, note="no replacement"),
)
