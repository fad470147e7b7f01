"""A stand-in for kubelets: pods as process trees, ended whole, and started again after 1 s."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pangu_core.launch.rank_names import SPARE_NAME

RESTART_SECONDS: Final = 1.0  # a container's restart, without the back-off of later ones
GRACE_SECONDS: Final = 30.0
POD_VARIABLE: Final = "BENCH_POD"


@dataclass
class Pod:
    """One pod's command, and the process that is its container's first at the moment."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(repr=False)
    log: Path
    # Whether a container that ended with this code (negative: by a signal) is started again.
    is_replaced: Callable[[int], bool]
    process: subprocess.Popen[bytes] | None = None
    starts_at: float | None = None
    killed_at: float | None = None
    codes: list[int] = field(default_factory=list)

    @property
    def mark(self) -> str:
        """The variable, with its value, that tells this pod's processes from all others."""
        return f"{POD_VARIABLE}={self.log}"

    @property
    def pid(self) -> int:
        """The first process: the launcher, or torchrun's agent."""
        if self.process is None:
            raise RuntimeError(f"{self.name} does not run")
        return self.process.pid

    def rank_pid(self) -> int:
        """The process of this pod that trains: the oldest that its first process started."""
        children = [pid for pid in self._processes() if parent_of(pid) == self.pid]
        if not children:
            raise RuntimeError(f"{self.name} has no rank")
        return min(children, key=started_at)

    def has_spare(self) -> bool:
        """Whether a process waits, all loaded, to be the next rank."""
        return any(_name(pid) == SPARE_NAME for pid in self._processes())

    def start(self) -> None:
        """Start the container."""
        self.starts_at = None
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env={**self.environment, POD_VARIABLE: str(self.log)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def terminate(self) -> None:
        """What a deleted pod gets: SIGTERM, and SIGKILL after the grace period."""
        os.kill(self.pid, signal.SIGTERM)
        self.killed_at = time.monotonic() + GRACE_SECONDS

    def tick(self) -> None:
        """Notice an end, and start again when it is time."""
        now = time.monotonic()
        if self.process is None:
            if self.starts_at is not None and now >= self.starts_at:
                self.start()
            return
        if self.killed_at is not None and now >= self.killed_at:
            self.process.kill()
        code = self.process.poll()
        if code is None:
            return
        self.sweep()
        self.process, self.killed_at = None, None
        self.codes.append(code)
        if self.is_replaced(code):
            self.starts_at = now + RESTART_SECONDS

    def close(self) -> None:
        """End the pod for good."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.sweep()
        self.process, self.starts_at = None, None

    def sweep(self) -> None:
        """End what the first process left behind, as the end of a container does."""
        for pid in self._processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _processes(self) -> Iterator[int]:
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with contextlib.suppress(OSError):
                    variables = (entry / "environ").read_bytes().split(b"\0")
                    if self.mark.encode() in variables:
                        yield int(entry.name)


def parent_of(pid: int) -> int:
    """The process that started another."""
    return int(_stat(pid)[1])


def started_at(pid: int) -> float:
    """When a process was created, in seconds of the wall clock, to 10 ms."""
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return booted + int(_stat(pid)[19]) / os.sysconf("SC_CLK_TCK")


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def _stat(pid: int) -> list[str]:
    """The kernel's line on a process, from its state on (proc(5))."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
