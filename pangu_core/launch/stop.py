"""A request to stop, noted from a process's first moment on: process 1 ignores SIGTERM otherwise.

Imports nothing slow, so that the entry points can install it before all else.
"""

import signal
import time
from dataclasses import dataclass
from typing import Self


@dataclass
class StopRequest:
    """Set by a signal's handler; the one thing that the handler does."""

    at: float | None = None

    def set(self, *_: object) -> None:
        """Note the first request."""
        if self.at is None:
            self.at = time.monotonic()

    @classmethod
    def installed(cls) -> Self:
        """A request that SIGTERM and SIGINT set from now on."""
        stop = cls()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop.set)
        return stop
