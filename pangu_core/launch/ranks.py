"""The processes of one round on one node: started, heard, signalled, killed."""

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pangu_core.launch import heartbeat
from pangu_core.launch.heartbeat import Pulse
from pangu_core.launch.parent_death import LAUNCHER_VARIABLE
from pangu_core.launch.starter import Starter
from pangu_core.messages import TERMINATION_PATH_VARIABLE, Termination
from pangu_core.rendezvous.protocol import Round

# glibc: keep freed memory instead of returning it and faulting it in again at every step. On the
# CPU that is a quarter of a step (docs/performance.md).
KEEP_HEAP: Final = {
    "MALLOC_MMAP_THRESHOLD_": "2000000000",
    "MALLOC_TRIM_THRESHOLD_": "4000000000",
    "MALLOC_TOP_PAD_": "268435456",
}


@dataclass
class Rank:
    """One process and the read end of its heartbeat pipe."""

    process: subprocess.Popen[bytes]
    pipe: int
    error_file: Path
    pulse: Pulse
    buffer: bytes = field(default=b"", repr=False)


def shared_environment(own: Mapping[str, str], processes: int) -> dict[str, str]:
    """What all ranks of a launcher with this environment have in theirs."""
    cores = len(os.sched_getaffinity(0))
    # The termination message is the launcher's to write.
    rest = {k: v for k, v in own.items() if k != TERMINATION_PATH_VARIABLE}
    defaults = {"OMP_NUM_THREADS": str(max(1, cores // processes)), **KEEP_HEAP}
    return {**defaults, **rest, LAUNCHER_VARIABLE: str(os.getpid())}


def place_of(gang: Round, *, node: int, processes: int, local_rank: int) -> dict[str, str]:
    """What tells a rank its place in a round."""
    place = {
        "RANK": node * processes + local_rank,
        "LOCAL_RANK": local_rank,
        "WORLD_SIZE": len(gang.members) * processes,
        "LOCAL_WORLD_SIZE": processes,
        "MASTER_ADDR": gang.master_address,
        "MASTER_PORT": gang.master_port,
        "PANGU_ROUND": gang.number,
    }
    return {name: str(value) for name, value in place.items()}


class LocalRanks:
    """All ranks of one round on this node."""

    def __init__(self, starter: Starter, places: Sequence[Mapping[str, str]]) -> None:
        self._selector = selectors.DefaultSelector()
        self.ranks: list[Rank] = []
        try:
            for place in places:
                self._start(starter, place)
        except BaseException:
            self.close()
            raise

    def _start(self, starter: Starter, place: Mapping[str, str]) -> None:
        error_file = Path(place["PANGU_ERROR_FILE"])
        error_file.unlink(missing_ok=True)
        started = starter.start(place)
        pulse = Pulse(started_at=time.monotonic())
        rank = Rank(started.process, started.pipe, error_file, pulse)
        self._selector.register(started.pipe, selectors.EVENT_READ, rank)
        self.ranks.append(rank)

    def listen(self, seconds: float) -> None:
        """Wait for heartbeats, at most so long, and take in all that came."""
        if not self._selector.get_map():
            time.sleep(seconds)
        for key, _ in self._selector.select(seconds):
            self._read(key.data)

    def _read(self, rank: Rank) -> None:
        """Read a pipe until it is empty; lines read together were heard together."""
        now = time.monotonic()
        with contextlib.suppress(BlockingIOError):
            while data := os.read(rank.pipe, 65_536):
                *lines, rank.buffer = (rank.buffer + data).split(b"\n")
                for line in lines:
                    rank.pulse = heartbeat.hear(rank.pulse, line, now)
            self._selector.unregister(rank.pipe)

    @property
    def codes(self) -> list[int | None]:
        """Exit codes by local rank; None: still running."""
        return [rank.process.poll() for rank in self.ranks]

    @property
    def pulses(self) -> list[Pulse]:
        """Heartbeats by local rank."""
        return [rank.pulse for rank in self.ranks]

    def errors(self) -> dict[int, Termination]:
        """What failing ranks left behind, by local rank, the first to fail first."""
        found = []
        for index, rank in enumerate(self.ranks):
            with contextlib.suppress(OSError):
                text = rank.error_file.read_text(encoding="utf-8")
                message = Termination.from_json(text)
                if message is not None:
                    found.append((rank.error_file.stat().st_mtime_ns, index, message))
        return {index: message for _, index, message in sorted(found, key=lambda f: f[:2])}

    def send(self, number: signal.Signals) -> None:
        """Signal every rank that still runs."""
        for rank in self.ranks:
            if rank.process.poll() is None:
                rank.process.send_signal(number)

    def kill(self) -> None:
        """End every rank and its helpers by SIGKILL, and wait for that."""
        for rank in self.ranks:
            # The group outlives its leader while helpers run.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(rank.process.pid, signal.SIGKILL)
        for rank in self.ranks:
            rank.process.wait()
        for key in list(self._selector.get_map().values()):
            self._read(key.data)

    def close(self) -> None:
        """Kill what runs and release the pipes."""
        self.kill()
        self._selector.close()
        for rank in self.ranks:
            os.close(rank.pipe)
