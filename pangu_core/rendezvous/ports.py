"""A port for a round's process-group store."""

import random
import socket
from typing import Final

# Below Linux' ephemeral range (32768 on), so that no outgoing connection takes the port between
# our look at it and rank 0's listening.
_PORTS: Final = range(20_000, 32_000)


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    while True:
        port = random.choice(_PORTS)  # noqa: S311
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
