"""Which namespaces belong to another controller: two must not work on one.

A release of the chart that watches namespaces by name marks each of them with a ConfigMap; Helm
lets only one release own it. A controller that watches every namespace leaves those alone.
"""

import threading
import time
from collections.abc import Callable
from typing import Final

from controller.cluster.api import Api, ApiError
from controller.cluster.kinds import CONFIG_MAP

MARK: Final = "pangu-watched-by-name"
# Shorter than a controller takes to start in a namespace that was just marked.
REMEMBERED_SECONDS: Final = 1.0


class Territory:
    """Thread-safe.

    Args:
        api: the API server.
        is_everywhere: this controller watches every namespace.
        clock: seconds; only differences count.
    """

    def __init__(
        self, api: Api, *, is_everywhere: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._api, self._is_everywhere, self._clock = api, is_everywhere, clock
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, bool]] = {}  # namespace -> when asked, answer

    def has(self, namespace: str) -> bool:
        """Whether this controller may work in a namespace.

        Raises:
            ApiError: it cannot be known now.
        """
        if not self._is_everywhere:
            return True
        now = self._clock()
        with self._lock:
            asked_at, is_ours = self._known.get(namespace, (float("-inf"), False))
        if now - asked_at < REMEMBERED_SECONDS:
            return is_ours
        is_ours = self._is_unmarked(namespace)
        with self._lock:
            self._known[namespace] = (now, is_ours)
        return is_ours

    def _is_unmarked(self, namespace: str) -> bool:
        try:
            self._api.get(CONFIG_MAP, namespace, MARK)
        except ApiError as error:
            if error.is_missing:
                return True
            raise
        return False
