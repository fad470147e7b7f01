"""Ends long work at a signal; process 1 of a pod would ignore it."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pangu_core.errors import Stopped


@contextmanager
def stopped_by_signals(verb: str, kept: str) -> Iterator[None]:
    """Raise ``Stopped`` in the main thread for the first SIGTERM or Ctrl-C.

    Args:
        verb: what is stopped.
        kept: what the next start finds, for the message.
    """
    numbers = (signal.SIGTERM, signal.SIGINT)

    def stop(signum: int, frame: FrameType | None) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise Stopped(
            verb,
            seen=signal.Signals(signum).name,
            rule=f"asks to stop; {kept}",
            fix="run again to go on",
        )

    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
