"""Work on threads beside the training loop, and how all ranks wait for it together."""

from collections.abc import Callable
from threading import Thread
from typing import Any, Final, Protocol

from pangu_core.checkpoint.agreement import Gather, attempt
from pangu_core.checkpoint.tensor_file import Tally

# How often ranks that wait tell each other, and the launcher, that the work moves.
LISTEN_SECONDS: Final = 1.0


class Work(Protocol):
    """Something under way in the background of one rank."""

    num_bytes: int
    """That moved so far: a sign of life."""

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do."""

    def wait(self, seconds: float) -> None:
        """Return when it is over, or after so many seconds."""


class Task:
    """Work on a thread of its own, which dies with the process."""

    def __init__(self, work: Callable[[Tally], Any], *, name: str) -> None:
        self.num_bytes = 0
        self.outcome: Any = None  # a result or a Failure, once it is over
        self._thread = Thread(target=self._run, args=(work,), name=name, daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether there is an outcome."""
        return not self._thread.is_alive()

    def wait(self, seconds: float) -> None:
        """Return when it is over, or after so many seconds."""
        self._thread.join(seconds)

    def _run(self, work: Callable[[Tally], Any]) -> None:
        self.outcome = attempt(lambda: work(self._count))

    def _count(self, num_bytes: int) -> None:
        self.num_bytes += num_bytes


def never() -> bool:
    """Nothing asks to leave."""
    return False


def wait_for_all(
    work: Work,
    gather: Gather,
    sign_of_life: Callable[[], None],
    *,
    must_leave: Callable[[], bool] = never,
) -> bool:
    """Return True when the work of all ranks is over, False when any of them must leave before.

    None of them waits inside a collective for long: a rank that is done tells its launcher that it
    lives as long as bytes move anywhere, and no longer.
    """
    before = -1
    while True:
        work.wait(LISTEN_SECONDS)
        everyone = gather((work.is_over, work.num_bytes, must_leave()))
        if all(is_over for is_over, _, _ in everyone):
            return True
        if any(leaves for _, _, leaves in everyone):
            return False
        moved = sum(num_bytes for _, num_bytes, _ in everyone)
        if moved > before:
            sign_of_life()
        before = moved
