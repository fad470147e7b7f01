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


def environment_of(
    base: Mapping[str, str], gang: Round, *, node: int, processes: int, local_rank: int
) -> dict[str, str]:
    """The environment of one rank, without what belongs to its pipe and error file."""
    cores = len(os.sched_getaffinity(0))
    own = {
        "RANK": node * processes + local_rank,
        "LOCAL_RANK": local_rank,
        "WORLD_SIZE": len(gang.members) * processes,
        "LOCAL_WORLD_SIZE": processes,
        "MASTER_ADDR": gang.master_address,
        "MASTER_PORT": gang.master_port,
        "PANGU_ROUND": gang.number,
        LAUNCHER_VARIABLE: os.getpid(),
    }
    # The termination message is the launcher's to write.
    rest = {k: v for k, v in base.items() if k != TERMINATION_PATH_VARIABLE}
    defaults = {"OMP_NUM_THREADS": str(max(1, cores // processes)), **KEEP_HEAP}
    return {**defaults, **rest, **{k: str(v) for k, v in own.items()}}


class LocalRanks:
    """All ranks of one round on this node."""

    def __init__(self, command: Sequence[str], environments: Sequence[Mapping[str, str]]) -> None:
        self._selector = selectors.DefaultSelector()
        self.ranks: list[Rank] = []
        try:
            for environment in environments:
                self._start(command, environment)
        except BaseException:
            self.close()
            raise

    def _start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        reader, writer = os.pipe()
        error_file = Path(environment["PANGU_ERROR_FILE"])
        error_file.unlink(missing_ok=True)
        try:
            process = subprocess.Popen(
                command,
                env={**environment, "PANGU_HEARTBEAT_FD": str(writer)},
                pass_fds=(writer,),
                # Its own session: a terminal's Ctrl-C reaches the launcher alone, and a kill
                # takes the rank's helpers along.
                start_new_session=True,
            )
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        os.set_blocking(reader, False)
        rank = Rank(process, reader, error_file, Pulse(started_at=time.monotonic()))
        self._selector.register(reader, selectors.EVENT_READ, rank)
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
