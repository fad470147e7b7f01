"""The rendezvous store: one small process that answers agents' beats. Must not import torch.

It keeps nothing on disk. What it forgets, the next beats tell it again (membership.py).
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

from pangu_core.errors import ConfigError
from pangu_core.rendezvous import membership
from pangu_core.rendezvous.membership import Gang, Timing
from pangu_core.rendezvous.protocol import (
    LINE_LIMIT_BYTES,
    Beat,
    Outcome,
    ProtocolError,
    View,
    decode_beat,
    encode,
)

TICK_SECONDS: Final = 0.1
# Longer between two looks at the clock, and this process was not running.
BLINK_SECONDS: Final = 0.5
# Turns of the event loop that a connection needs from its acceptance to its handler, and from
# its closing to its end; generously.
SETTLING_TURNS: Final = 5
# A store serves one attempt; strangers may not fill its memory.
GANG_LIMIT: Final = 64
MEMBER_LIMIT: Final = 4_096
logger = logging.getLogger(__name__)


class Clock:
    """Seconds in which this process ran.

    While it was stopped, or starved, it heard nobody: that time must not count as their silence.
    """

    def __init__(self, source: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._looked_at = source()
        self._seconds = 0.0

    def now(self) -> float:
        """The time; to be asked much more often than once in ``BLINK_SECONDS``."""
        at = self._source()
        self._seconds += min(at - self._looked_at, BLINK_SECONDS)
        self._looked_at = at
        return self._seconds


class Store:
    """Gangs by rendezvous id, and the connections of their agents. Runs in one event loop."""

    def __init__(self, timing: Timing | None = None) -> None:
        self._timing = timing or Timing()
        self._clock = Clock()
        self._gangs: dict[str, Gang] = {}
        self._owners: dict[tuple[str, str], object] = {}  # (gang, agent) -> its connection

    async def serve(self, host: str, port: int, bound: "asyncio.Future[int]") -> None:
        """Answer until cancelled; ``bound`` gets the port."""
        server = await asyncio.start_server(self._talk, host, port, limit=LINE_LIMIT_BYTES)
        async with server:
            bound.set_result(server.sockets[0].getsockname()[1])
            try:
                await self._watch_the_clock()
            finally:
                # Python 3.11 leaves a connection open for ever that was accepted just before its
                # server closes: accept no more, and let the last ones reach their handlers.
                for listening in server.sockets:
                    asyncio.get_running_loop().remove_reader(listening.fileno())
                for _ in range(SETTLING_TURNS):
                    await asyncio.sleep(0)

    async def _watch_the_clock(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = self._clock.now()
            for name, gang in list(self._gangs.items()):
                self._put(name, membership.settle(gang, now))

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One agent's connection: a view for each beat. Garbage ends it."""
        connection, speaker = object(), None
        try:
            while line := await reader.readline():
                beat = decode_beat(line)
                speaker = (beat.gang, beat.id)
                self._owners[speaker] = connection
                writer.write(encode(self._answer(beat)))
                await writer.drain()
                if beat.state == "gone":
                    del self._owners[speaker]
                    break
        except (ProtocolError, ValueError) as error:  # ValueError: a line beyond the limit
            logger.warning("closed a connection: %s", error)
        except OSError:
            logger.debug("a connection broke")
        except asyncio.CancelledError:
            # The store ends. Python 3.11's streams log a cancelled connection as an error.
            logger.debug("a connection was open to the end")
        finally:
            writer.close()
            if speaker and self._owners.get(speaker) is connection:
                del self._owners[speaker]
                self._hang_up(*speaker)

    def _answer(self, beat: Beat) -> View:
        now = self._clock.now()
        gang = self._gangs.get(beat.gang)
        if gang is None:
            if len(self._gangs) >= GANG_LIMIT:
                return _refusal(
                    "rendezvous store",
                    seen=f"{GANG_LIMIT} gangs",
                    rule="serves no more",
                    fix="start a store for each attempt",
                )
            gang = Gang(beat.rules, self._timing, hold_until=now)
        if gang.rules != beat.rules:
            return _refusal(
                "PET_NNODES",
                seen=str(beat.rules),
                rule=f"must be {gang.rules}, as the others'",
                fix="render all pods of an attempt from one job file",
            )
        if beat.id not in gang.members and len(gang.members) >= MEMBER_LIMIT:
            return _refusal(
                "rendezvous store",
                seen=f"{MEMBER_LIMIT} agents",
                rule="serves no more",
                fix="let fewer pods join one attempt",
            )
        gang = membership.hear(gang, beat, now)
        self._put(beat.gang, gang)
        return membership.view(gang, beat.id)

    def _hang_up(self, name: str, member_id: str) -> None:
        gang = self._gangs.get(name)
        if gang is not None:
            self._put(name, membership.hang_up(gang, member_id, self._clock.now()))

    def _put(self, name: str, gang: Gang) -> None:
        old = self._gangs.get(name)
        self._gangs[name] = gang
        status, number = (old.status, old.number) if old else ("forming", 0)
        if gang.round and (gang.status, gang.number) != (status, number):
            members = " ".join(gang.round.members)
            logger.info("gang %s round %d %s: %s", name, gang.round.number, gang.status, members)
        if gang.outcome and not (old and old.outcome):
            logger.info("gang %s ended with code %d", name, gang.outcome.code)


def _refusal(subject: str, *, seen: str, rule: str, fix: str) -> View:
    error = ConfigError(subject, seen=seen, rule=rule, fix=fix)
    return View("exit", outcome=Outcome.of(error))


@contextlib.contextmanager
def in_thread(
    timing: Timing | None = None, *, host: str = "127.0.0.1", port: int = 0
) -> Iterator[int]:
    """Run a store in a thread of this process; yields its port."""
    ready: list[int] = []
    started = threading.Event()
    loop = asyncio.new_event_loop()

    def note(bound: "asyncio.Future[int]") -> None:
        ready.append(bound.result())
        started.set()

    async def main() -> None:
        bound: asyncio.Future[int] = loop.create_future()
        bound.add_done_callback(note)
        await Store(timing).serve(host, port, bound)

    task = loop.create_task(main())

    def target() -> None:
        try:
            with contextlib.suppress(asyncio.CancelledError):
                loop.run_until_complete(task)
        finally:
            started.set()
            _close(loop)

    thread = threading.Thread(target=target, name="store", daemon=True)
    thread.start()
    started.wait()
    try:
        if not ready:
            task.result()
        yield ready[0]
    finally:
        with contextlib.suppress(RuntimeError):  # the loop has ended by itself
            loop.call_soon_threadsafe(task.cancel)
        thread.join()


def _close(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel the connections of a loop, and let it close their sockets, before it ends."""
    rest = asyncio.all_tasks(loop)
    for task in rest:
        task.cancel()
    if rest:
        loop.run_until_complete(asyncio.wait(rest))
    for _ in range(SETTLING_TURNS):
        loop.run_until_complete(asyncio.sleep(0))
    loop.close()
