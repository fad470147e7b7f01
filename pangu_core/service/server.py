"""Runs the service until it is asked to end, and ends it without losing an answer."""

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Final

import uvicorn

from pangu_core.errors import ConfigError
from pangu_core.service.app import Service
from pangu_core.service.engine import Engine
from pangu_core.service.health import Health

POLL_SECONDS: Final = 0.05
# Of the grace period, kept for the end itself: errors to those that are cut off, closing, exit.
MARGIN_SECONDS: Final = 3.0
CLOSING_SECONDS: Final = 2.0  # for connections to close, once nothing is being answered
# Longer than proxies keep an idle connection, so that none sends into one that is being closed.
KEEP_ALIVE_SECONDS: Final = 75
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Times:
    """How the end goes.

    Attributes:
        delay: seconds in which requests are still taken on, as routers may not know yet.
        grace: seconds from the signal to SIGKILL.
    """

    delay: float
    grace: float


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens nowhere yet, so that nobody is kept waiting while the model loads.

    Raises:
        ConfigError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise ConfigError(
            "address",
            seen=f"{host} port {port}",
            rule=f"must be free and this machine's ({error.strerror or error})",
            fix="choose another with --host and --port",
        ) from error
    return bound


def run(
    service: Service, health: Health, *, engine: Engine, bound: socket.socket, times: Times
) -> bool:
    """Serve until SIGTERM or SIGINT; false: answers had to be cut off.

    Raises:
        BaseException: what ended the engine.
    """
    return asyncio.run(_Run(service, health, engine, bound, times).until_the_end())


class _Server(uvicorn.Server):
    """Tells of a signal rather than ending on it."""

    def __init__(self, config: uvicorn.Config, on_signal: Callable[[int], None]) -> None:
        super().__init__(config)
        self._on_signal = on_signal

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._on_signal(sig)

    def close_idle(self) -> None:
        """Close the connections without a request; the others close behind their answer."""
        for connection in list(self.server_state.connections):
            connection.shutdown()


class _Run:
    """One service's life."""

    def __init__(
        self,
        service: Service,
        health: Health,
        engine: Engine,
        bound: socket.socket,
        times: Times,
    ) -> None:
        self._service, self._health, self._engine = service, health, engine
        self._bound, self._times = bound, times
        self._asked_at: float | None = None  # monotonic time of the first signal
        self._is_interrupted = False  # by Ctrl-C: somebody waits, and nobody routes requests here
        self._is_impatient = False  # by Ctrl-C again: answers that are being written end now
        config = uvicorn.Config(
            service.app,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=round(CLOSING_SECONDS),
        )
        self._server = _Server(config, self._on_signal)

    async def until_the_end(self) -> bool:
        """Serve, and watch over it."""
        serving = asyncio.create_task(self._server.serve(sockets=[self._bound]))
        try:
            whole = await self._watch(serving)
        finally:
            self._server.should_exit = True
            await serving
        error = self._engine.stats().error
        if error is not None:
            raise error
        return whole

    async def _watch(self, serving: "asyncio.Task[None]") -> bool:
        while self._asked_at is None:
            await asyncio.sleep(POLL_SECONDS)
            if serving.done() or self._engine.stats().error is not None:
                return False
        return await self._drain(self._asked_at)

    async def _drain(self, asked_at: float) -> bool:
        """Let routers turn away, then clients; finish what runs, as far as there is time."""
        logger.info("draining: %d requests open", self._health.num_open)
        cut_at = asked_at + self._times.grace - MARGIN_SECONDS
        await _wait(min(asked_at + self._times.delay, cut_at), lambda: self._is_interrupted)
        self._health.closed = True
        self._server.close_idle()
        await _wait(cut_at, lambda: self._is_idle() or self._is_impatient)
        if self._is_idle():
            return True
        logger.warning("no time left: %d requests are cut off", self._health.num_open)
        self._service.completions.cut()
        await _wait(time.monotonic() + CLOSING_SECONDS / 2, self._is_idle)
        return False

    def _is_idle(self) -> bool:
        return self._health.num_open == 0

    def _on_signal(self, sig: int) -> None:
        """Python calls it between two steps of the main thread."""
        if sig == signal.SIGINT:
            self._is_impatient, self._is_interrupted = self._is_interrupted, True
        if self._asked_at is None:
            self._health.draining = True
            self._asked_at = time.monotonic()


async def _wait(until: float, done: Callable[[], bool]) -> None:
    """Wait until a monotonic time, or for something that comes before it."""
    while time.monotonic() < until and not done():
        await asyncio.sleep(POLL_SECONDS)
