"""One command in a running pod, its streams over a websocket (protocol v5.channel.k8s.io).

Every message begins with a byte that names its channel. The client of the ``kubernetes`` package
keeps all that arrives until somebody asks; files are larger than that, so messages are taken one by
one here.
"""

import json
from collections.abc import Iterator
from typing import Any, Final, Protocol

from websocket import WebSocketException

from controller.cluster.api import ApiError

STDIN: Final = 0
STDOUT: Final = 1
STDERR: Final = 2
RESULT: Final = 3  # a Status when the command has ended
CLOSE: Final = 255  # the next byte names the channel that ends
TEXT: Final = 1
BINARY: Final = 2
ERROR_LIMIT: Final = 2_000  # bytes of the command's own complaint that are kept


class Socket(Protocol):
    """What we use of a websocket."""

    def send_binary(self, payload: bytes) -> Any:
        """Send one message."""

    def recv_data(self) -> tuple[int, bytes]:
        """The next message: its kind and its bytes."""

    def close(self) -> Any:
        """End the connection."""


class Execution:
    """A command that runs; ``output`` must be read to its end.

    Args:
        socket: an open websocket to the pod's ``exec``.
        what: the command, for messages.
    """

    def __init__(self, socket: Socket, what: str) -> None:
        self._socket, self._what = socket, what

    def write(self, data: bytes) -> None:
        """Send a piece of input.

        Raises:
            OSError: the command reads no more; ``output`` says why.
        """
        self._send(bytes([STDIN]) + data)

    def end_input(self) -> None:
        """Let the command see the end of its input.

        Raises:
            OSError: the command is gone; ``output`` says why.
        """
        self._send(bytes([CLOSE, STDIN]))

    def output(self) -> Iterator[bytes]:
        """What the command writes, piece by piece, until it has ended.

        Raises:
            ApiError: it failed, or the connection broke before it ended.
        """
        complaint = b""
        while True:
            channel, data = self._next()
            if channel == STDOUT and data:
                yield data
            elif channel == STDERR:
                complaint = (complaint + data)[-ERROR_LIMIT:]
            elif channel == RESULT and data:
                self._judge(data, complaint)
                return

    def close(self) -> None:
        """Hang up; the command loses its streams."""
        self._socket.close()

    def _send(self, message: bytes) -> None:
        try:
            self._socket.send_binary(message)
        except WebSocketException as error:
            raise ConnectionResetError(str(error)) from error

    def _next(self) -> tuple[int, bytes]:
        """The next message: its channel and what it says."""
        while True:
            try:
                kind, message = self._socket.recv_data()
            except (WebSocketException, OSError) as error:
                raise ApiError(0, "Disconnected", f"{self._what}: {error}") from error
            if kind not in (TEXT, BINARY):
                raise ApiError(0, "Disconnected", f"{self._what}: the connection broke")
            if message:
                return message[0], message[1:]

    def _judge(self, data: bytes, complaint: bytes) -> None:
        status = json.loads(data)
        if status.get("status") != "Success":
            why = complaint.decode(errors="replace").strip() or status.get("message", "")
            raise ApiError(0, "CommandFailed", f"{self._what}: {why}")
