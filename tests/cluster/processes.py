"""Starts programs and ends them by process id; none outlives the one that started them.

Each is a session of its own, so that Ctrl-C reaches only its owner, and a watchdog kills what a
crashed owner left behind.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from controller.local import watchdog

TERM_SECONDS: Final = 20.0
LOG_TAIL_BYTES: Final = 4_000


class Processes:
    """Programs by name, each with a log file."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        command = [sys.executable, "-I", "-S", watchdog.__file__]
        self._watchdog = subprocess.Popen(
            command, stdin=subprocess.PIPE, text=True, start_new_session=True
        )

    def start(
        self, name: str, command: Sequence[str], *, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start a program; its output is appended to ``<logs>/<name>.log``."""
        assert not self.is_running(name), f"{name} runs already"
        with self.log(name).open("ab") as log:
            process = subprocess.Popen(
                command,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running[name] = process
        self._note("+", process.pid)

    def stop(self, name: str, *, gently: bool = False) -> None:
        """End a program: by SIGKILL, or ``gently`` by SIGTERM first; nothing if it has ended."""
        process = self._running.pop(name, None)
        if process is None:
            return
        if gently:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(TERM_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._note("-", process.pid)

    def close(self) -> None:
        """End everything at once."""
        for name in reversed(list(self._running)):
            self.stop(name)
        assert self._watchdog.stdin
        self._watchdog.stdin.close()
        self._watchdog.wait()

    def is_running(self, name: str) -> bool:
        """Whether a program was started and has not ended."""
        process = self._running.get(name)
        return process is not None and process.poll() is None

    def pid(self, name: str) -> int:
        """The process id of a program that was started."""
        return self._running[name].pid

    def log(self, name: str) -> Path:
        """Where a program's output goes."""
        return self._logs / f"{name}.log"

    def wait_until(self, name: str, is_ready: Callable[[], bool], *, seconds: float) -> None:
        """Wait for a program to be ready.

        Raises:
            RuntimeError: it ended or was not ready in time; with the end of its log.
        """
        deadline = time.monotonic() + seconds
        while not is_ready():
            if not self.is_running(name) or time.monotonic() > deadline:
                state = "is not ready" if self.is_running(name) else "has ended"
                tail = self.log(name).read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")
                raise RuntimeError(f"{name} {state}; the end of {self.log(name)}:\n{tail}")
            time.sleep(0.05)

    def _note(self, sign: str, pid: int) -> None:
        assert self._watchdog.stdin
        self._watchdog.stdin.write(f"{sign}{pid}\n")
        self._watchdog.stdin.flush()
