"""The store pod's work: serve rendezvous for one attempt's agents. Never loads torch."""

import asyncio
import os
import signal
from typing import Final

from pangu_core.entry import process
from pangu_core.errors import ConfigError
from pangu_core.launch.stop import StopRequest
from pangu_core.messages import Termination
from pangu_core.rendezvous.membership import Timing
from pangu_core.rendezvous.protocol import DEFAULT_PORT
from pangu_core.rendezvous.store import Store

PORT_VARIABLE: Final = "PANGU_STORE_PORT"


def serve(stop: StopRequest, *, timing: Timing | None = None) -> Termination:
    """Serve on all addresses until a signal; a store has nothing to save.

    Raises:
        ConfigError: the port is not one.
    """
    text = os.environ.get(PORT_VARIABLE, str(DEFAULT_PORT))
    if not text.isdecimal() or not 0 < int(text) < 65_536:
        raise ConfigError(
            PORT_VARIABLE, seen=text, rule="must be a port", fix="use a number from 1 to 65535"
        )
    asyncio.run(_serve_until_signal(int(text), stop, Store(timing)))
    return Termination(code=0)


async def _serve_until_signal(port: int, stop: StopRequest, store: Store) -> None:
    loop = asyncio.get_running_loop()
    serving = asyncio.create_task(store.serve("", port, loop.create_future()))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, serving.cancel)
    if stop.at is not None:
        serving.cancel()
    # The one way to end: anything else that ends it is an error and raises here.
    await asyncio.wait([serving])
    if not serving.cancelled():
        serving.result()


def run(stop: StopRequest) -> int:
    """Serve until a signal; returns the exit code."""
    return process.run("store", lambda: serve(stop))
