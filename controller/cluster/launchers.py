"""Asks launchers how far they are, beside the workers: a pod that does not answer holds up nobody.

Answers are remembered until the next question. What could not be asked is no answer: a launcher
that cannot be reached proves nothing.
"""

import http.client
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from controller.cluster.cache import Key
from k8s import names
from pangu_core.messages import Progress

PERIOD_SECONDS: Final = 10.0
TIMEOUT_SECONDS: Final = 2.0
THREADS: Final = 8
Attempt = tuple[str, int]  # stage, number


@dataclass
class _Memory:
    """What is known of one job's live attempt."""

    attempt: Attempt
    asked_at: float = float("-inf")
    under_way: bool = False
    answer: Progress | None = None


class Launchers:
    """The latest answer of each job's launchers. Thread-safe.

    Args:
        on_news: told the key when an answer says something that its status should show at once.
        port: of every launcher's HTTP server.
    """

    def __init__(self, on_news: Callable[[Key], None], *, port: int = names.PROGRESS_PORT) -> None:
        self._on_news, self._port = on_news, port
        self._lock = threading.Lock()
        self._memory: dict[Key, _Memory] = {}
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="ask")

    def answers(
        self, key: Key, attempt: Attempt, addresses: Sequence[str]
    ) -> dict[Attempt, Progress]:
        """The latest answer of an attempt; asks again in the background when it is due.

        Args:
            key: the job's.
            attempt: the live one; another's answers are forgotten.
            addresses: of its running pods, the likeliest to answer first.
        """
        now = time.monotonic()
        with self._lock:
            memory = self._memory.get(key)
            if memory is None or memory.attempt != attempt:
                memory = self._memory[key] = _Memory(attempt)
            is_due = now - memory.asked_at >= PERIOD_SECONDS and not memory.under_way
            if is_due and addresses:
                memory.asked_at, memory.under_way = now, True
                self._pool.submit(self._ask, key, memory, tuple(addresses))
            return {attempt: memory.answer} if memory.answer else {}

    def forget(self, key: Key) -> None:
        """Drop what is known of a job."""
        with self._lock:
            self._memory.pop(key, None)

    def close(self) -> None:
        """Ask nobody any more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _ask(self, key: Key, memory: _Memory, addresses: Sequence[str]) -> None:
        latest = None
        for address in addresses:
            answer = ask(address, self._port)
            latest = answer or latest
            if answer is not None and answer.phase != "wait":
                break  # it is one of the gang's
        with self._lock:
            before, memory.answer, memory.under_way = memory.answer, latest, False
        if before is None or latest is None or before.phase != latest.phase:
            self._on_news(key)


def ask(address: str, port: int) -> Progress | None:
    """One launcher's answer; None if there is none."""
    # Not urllib: it would send the question through a proxy that the environment names.
    connection = http.client.HTTPConnection(address, port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/progress")
        return Progress.from_json(connection.getresponse().read().decode("utf-8"))
    except (OSError, ValueError, TypeError, http.client.HTTPException):
        return None
    finally:
        connection.close()
