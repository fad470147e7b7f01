"""An agent's line to the store: a thread that sends its state and keeps the latest answer.

The agent never waits for the network. While the store is away the thread tries again for ever,
and the agent goes on with what it knows. Must not import torch.
"""

import contextlib
import logging
import random
import socket
import threading
import time
from typing import BinaryIO, Final, Self

from pangu_core.rendezvous.protocol import (
    LINE_LIMIT_BYTES,
    Beat,
    ProtocolError,
    View,
    decode_view,
    encode,
)

BEAT_SECONDS: Final = 0.2
# The store answers at once; a slower answer means that it, or the way there, is gone.
ANSWER_SECONDS: Final = 3.0
RETRY_SECONDS: Final = 0.5
logger = logging.getLogger(__name__)


class Client:
    """Keeps telling the store one beat until another is given."""

    def __init__(self, host: str, port: int, *, beat_seconds: float = BEAT_SECONDS) -> None:
        self._address = (host, port)
        self._beat_seconds = beat_seconds
        self._beat: Beat | None = None
        self._view: View | None = None
        self._heard_at = time.monotonic()
        self._said_gone = threading.Event()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rendezvous", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout=ANSWER_SECONDS)

    @property
    def view(self) -> View | None:
        """The store's latest answer; None before the first."""
        return self._view

    @property
    def silence_seconds(self) -> float:
        """Time since the store last answered, or since the start."""
        return time.monotonic() - self._heard_at

    def tell(self, beat: Beat) -> None:
        """Set the state to send from now on; a new one is sent at once."""
        if beat != self._beat:
            urgent = self._beat is None or _without_progress(beat) != _without_progress(self._beat)
            self._beat = beat
            if urgent:
                self._wake.set()

    def say_gone(self, beat: Beat, *, wait_seconds: float) -> bool:
        """Send a last beat; returns whether the store took it in time."""
        self.tell(beat)
        return self._said_gone.wait(wait_seconds)

    def _run(self) -> None:
        warned = False
        while not (self._closing.is_set() or self._said_gone.is_set()):
            try:
                with socket.create_connection(self._address, timeout=ANSWER_SECONDS) as link:
                    warned = False
                    self._converse(link)
            except (OSError, ProtocolError) as error:
                if not warned:
                    logger.warning("the store at %s:%d is away: %s", *self._address, error)
                warned = True
            # Many agents lose one store at one time: spread their return.
            self._closing.wait(RETRY_SECONDS * random.uniform(0.5, 1.0))  # noqa: S311

    def _converse(self, link: socket.socket) -> None:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.closing(link.makefile("rb")) as answers:
            while not self._closing.is_set():
                self._wake.clear()
                beat = self._beat
                if beat is not None:
                    link.sendall(encode(beat))
                    self._view = _read_view(answers)
                    self._heard_at = time.monotonic()
                    if beat.state == "gone":
                        self._said_gone.set()
                        return
                self._wake.wait(self._beat_seconds)


def _read_view(answers: BinaryIO) -> View:
    line = answers.readline(LINE_LIMIT_BYTES)
    if not line:
        raise ConnectionResetError("the store closed the connection")
    return decode_view(line)


def _without_progress(beat: Beat) -> tuple[object, ...]:
    return (beat.state, beat.round, beat.left, beat.clean, beat.outcome)
