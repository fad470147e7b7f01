"""Keys to work on: each at most once at a time, at a time of its own, with backoff after failures.

As controllers do it: a key that is added while it is being worked on comes again afterwards; what
was added twice comes once.
"""

import heapq
import itertools
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

FIRST_WAIT_SECONDS: Final = 0.05
LONGEST_WAIT_SECONDS: Final = 300.0
K = TypeVar("K", bound=Hashable)


class WorkQueue(Generic[K]):
    """Thread-safe. ``take`` hands a key out, ``done`` gives it back.

    Args:
        clock: seconds; only differences count.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._ready: deque[K] = deque()
        self._waiting: set[K] = set()  # in _ready, or to come again after done()
        self._busy: set[K] = set()
        self._timers: list[tuple[float, int, K]] = []
        self._due: dict[K, float] = {}  # the timer of each key that counts
        self._failures: dict[K, int] = {}
        self._order = itertools.count()
        self._closed = False

    def __len__(self) -> int:
        """Keys that are ready or being worked on; those with a timer do not count."""
        with self._changed:
            return len(self._waiting | self._busy)

    def add(self, key: K) -> None:
        """Work on a key as soon as possible."""
        with self._changed:
            self._add(key)

    def add_at(self, key: K, due: float) -> None:
        """Work on a key at a time of the clock; the earliest asked for counts."""
        with self._changed:
            if due < self._due.get(key, float("inf")):
                self._due[key] = due
                heapq.heappush(self._timers, (due, next(self._order), key))
                self._changed.notify()

    def retry(self, key: K) -> float:
        """Work on a key again after a failure; returns the seconds until then.

        Doubles from 0.05 s to 5 minutes, less up to a quarter: many failures at one time do not
        come back at one time.
        """
        with self._changed:
            count = self._failures.get(key, 0)
            self._failures[key] = count + 1
        wait = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** min(count, 20))
        wait *= random.uniform(0.75, 1.0)  # noqa: S311 - no secret
        self.add_at(key, self._clock() + wait)
        return wait

    def succeeded(self, key: K) -> None:
        """Forget the failures of a key."""
        with self._changed:
            self._failures.pop(key, None)

    def take(self) -> K | None:
        """Wait for a key that nobody works on; None when the queue is closed."""
        with self._changed:
            while not self._closed:
                self._ring()
                if self._ready:
                    key = self._ready.popleft()
                    self._waiting.discard(key)
                    self._busy.add(key)
                    return key
                self._changed.wait(self._seconds_to_next())
            return None

    def done(self, key: K) -> None:
        """Give a key back."""
        with self._changed:
            self._busy.discard(key)
            if key in self._waiting:
                self._ready.append(key)
                self._changed.notify()

    def close(self) -> None:
        """Let every ``take`` return None."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _add(self, key: K) -> None:
        if key in self._waiting:
            return
        self._waiting.add(key)
        if key not in self._busy:
            self._ready.append(key)
            self._changed.notify()

    def _ring(self) -> None:
        now = self._clock()
        while self._timers and self._timers[0][0] <= now:
            due, _, key = heapq.heappop(self._timers)
            if self._due.get(key) == due:
                del self._due[key]
                self._add(key)

    def _seconds_to_next(self) -> float | None:
        return max(0.0, self._timers[0][0] - self._clock()) if self._timers else None
