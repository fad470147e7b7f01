"""A rank's words to its launcher: one JSON line per phase and step, through an inherited pipe."""

import json
import os
import time
from typing import Any, Final

HEARTBEAT_VARIABLE: Final = "PANGU_HEARTBEAT_FD"
REPEAT_SECONDS: Final = 1.0


class Heartbeat:
    """Writes heartbeat lines; silent where no launcher listens.

    A launcher that was stopped reads nothing, and its ranks train on: lines that no longer fit
    the pipe are dropped, but for the last one, which is worth waiting for.

    Args:
        steps: optimizer steps in all, part of every line.
    """

    def __init__(self, steps: int) -> None:
        value = os.environ.get(HEARTBEAT_VARIABLE)
        self._descriptor = int(value) if value else None
        self._last: dict[str, Any] = {"steps": steps}
        if self._descriptor is not None:
            os.set_blocking(self._descriptor, False)
        self._repeated_at = 0.0

    def beat(self, phase: str, **values: Any) -> None:
        """Say which phase begins; ``values`` stay part of later lines."""
        self._last |= {"phase": phase, **values}
        if self._descriptor is None:
            return
        if phase == "done":
            os.set_blocking(self._descriptor, True)
        try:
            os.write(self._descriptor, json.dumps(self._last).encode() + b"\n")
        except BlockingIOError:
            return
        except BrokenPipeError:  # the launcher is gone and will take this process along
            self._descriptor = None

    def alive(self) -> None:
        """Say again, at most once a second, what was said last: the phase goes on."""
        now = time.monotonic()
        if now - self._repeated_at >= REPEAT_SECONDS:
            self._repeated_at = now
            self.beat(self._last.get("phase", "start"))
