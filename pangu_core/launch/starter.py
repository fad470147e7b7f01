"""Starts the processes of ranks, if it may from spares that have their libraries loaded.

Most of a recovery is loading torch: 3 seconds of processor time a rank, and as much again for
sharded data parallel (docs/performance.md). So a launcher keeps one process for each of its ranks
that has done this and waits on a pipe to be told its place; ``wait_for_place`` is its side of it.
A spare holds no state: a rank that was one is like any other.
"""

import contextlib
import json
import logging
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pangu_core.memory import room

PLACE_VARIABLE: Final = "PANGU_PLACE_FD"
# What a spare may come to hold, with a margin: 260 MB were measured with torch's CPU build, 370 MB
# with CUDA's.
SPARE_BYTES: Final = 600_000_000
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Started:
    """A process and the read end of its heartbeat pipe."""

    process: subprocess.Popen[bytes]
    pipe: int


@dataclass(frozen=True)
class _Spare:
    started: Started
    place: int  # write end of the pipe on which it waits

    def close(self) -> None:
        os.close(self.place)
        os.close(self.started.pipe)
        self.started.process.kill()
        self.started.process.wait()


class Starter:
    """The one place where a launcher's ranks come from.

    Args:
        command: what each rank runs.
        base: the environment that all ranks of this launcher share.
        spare_command: what a spare runs; ``--gently`` is added beside ranks that train. None: no
            spares, every rank loads its libraries when it is needed.
        spares: how many to keep.
    """

    def __init__(
        self,
        command: Sequence[str],
        base: Mapping[str, str],
        *,
        spare_command: Sequence[str] | None,
        spares: int,
    ) -> None:
        self._command, self._base = tuple(command), dict(base)
        self._spare_command = tuple(spare_command or ())
        self._count = spares if spare_command else 0
        self._spares: list[_Spare] = []

    def warm_up(self, *, gently: bool) -> None:
        """Start the spares that are missing, where there is memory for them."""
        missing = self._count - len(self._spares)
        if missing <= 0:
            return
        free = room().available
        if free < missing * SPARE_BYTES:
            logger.warning(
                "no spare processes: they may need %d bytes each, free: %d", SPARE_BYTES, free
            )
            self._count = len(self._spares)
            return
        command = (*self._spare_command, *(["--gently"] if gently else []))
        try:
            for _ in range(missing):
                self._spares.append(self._begin_spare(command))
        except OSError as error:  # no more processes, say: ranks that train are not to end by it
            logger.warning("no more spare processes: %s", error)
            self._count = len(self._spares)

    def _begin_spare(self, command: Sequence[str]) -> _Spare:
        reader, writer = os.pipe()
        try:
            environment = {**self._base, PLACE_VARIABLE: str(reader)}
            return _Spare(_begin(command, environment, reader), writer)
        except BaseException:
            os.close(writer)
            raise
        finally:
            os.close(reader)

    def start(self, place: Mapping[str, str]) -> Started:
        """Start a rank: the shared environment, and what is its own."""
        while self._spares:
            spare = self._spares.pop()
            if spare.started.process.poll() is None:
                with contextlib.suppress(BrokenPipeError):  # its end shows as any rank's does
                    os.write(spare.place, json.dumps(dict(place)).encode())
                os.close(spare.place)
                return spare.started
            logger.warning(
                "a spare process ended (%s): no more spares", spare.started.process.returncode
            )
            self._count = 0
            spare.close()
        return _begin(self._command, {**self._base, **place})

    def close(self) -> None:
        """End the spares."""
        while self._spares:
            self._spares.pop().close()


def wait_for_place() -> None:
    """Where this process is a spare: wait for the launcher to say which rank it is.

    The process ends here if its launcher has no use for it.
    """
    descriptor = os.environ.pop(PLACE_VARIABLE, None)
    if descriptor is None:
        return
    with os.fdopen(int(descriptor), "rb") as pipe:
        text = pipe.read()
    if not text:
        raise SystemExit(0)
    os.environ.update(json.loads(text))


def _begin(command: Sequence[str], environment: Mapping[str, str], *more: int) -> Started:
    reader, writer = os.pipe()
    try:
        process = subprocess.Popen(
            command,
            env={**environment, "PANGU_HEARTBEAT_FD": str(writer)},
            pass_fds=(writer, *more),
            # Its own session: a terminal's Ctrl-C reaches the launcher alone, and a kill takes the
            # rank's helpers along.
            start_new_session=True,
        )
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    os.set_blocking(reader, False)
    return Started(process, reader)
