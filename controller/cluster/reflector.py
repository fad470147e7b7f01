"""Keeps a copy of every object of one kind: list once, then watch, for ever.

What is kept is a projection (projections.py). The watch asks for bookmarks, so a
connection that says nothing for two minutes is dead, whatever TCP thinks of it, and is opened anew
from where it was. A resource version that the server has forgotten (410) means a new list. A kind
whose CRD does not exist is asked for again from time to time: it may be installed later.
"""

import logging
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from controller.cluster.api import Api, ApiError
from controller.cluster.cache import Cache
from controller.cluster.kinds import Kind
from controller.cluster.projections import projected

SILENCE_SECONDS: Final = 120.0  # the server sends a bookmark about once a minute
PAGE: Final = "500"
FIRST_WAIT_SECONDS: Final = 0.5
LONGEST_WAIT_SECONDS: Final = 30.0
ABSENT_WAIT_SECONDS: Final = 15.0  # between two looks for a kind that is not installed
Object = dict[str, Any]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """What one reflector follows.

    Attributes:
        kind: of the objects.
        namespace: None for all.
        selector: labels that objects must bear; empty for all.
        optional: the kind may be missing in this cluster.
    """

    kind: Kind
    namespace: str | None
    selector: str = ""
    optional: bool = False


class Reflector:
    """One thread that keeps one kind of a cache up to date."""

    def __init__(
        self, api: Api, source: Source, cache: Cache, *, silence_seconds: float = SILENCE_SECONDS
    ) -> None:
        self._api, self._source, self._cache = api, source, cache
        self._silence_seconds = silence_seconds
        self._stopping = threading.Event()
        self._settled = threading.Event()
        self._failures = 0
        self.heard_at = time.monotonic()
        """When the server last said anything."""
        self.is_installed = False
        """Whether the kind exists, as far as is known."""
        self._thread = threading.Thread(
            target=self._run, name=f"reflect-{source.kind.plural}", daemon=True
        )

    @property
    def kind(self) -> Kind:
        """What it follows."""
        return self._source.kind

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End with the next word of the server; the thread is a daemon and not waited for."""
        self._stopping.set()

    @property
    def has_settled(self) -> bool:
        """Whether the first list is in the cache, or the kind is known to be missing."""
        return self._settled.is_set()

    def _run(self) -> None:
        version: str | None = None
        while not self._stopping.is_set():
            try:
                version = version or self._list()
                for latest in self._watch(version):
                    version, self._failures = latest, 0
            except ApiError as error:
                if error.is_expired:
                    logger.info("%s: the watch is too old, listing again", self._source.kind.plural)
                    version = None
                elif self._source.optional and error.is_missing:
                    self._cache.replace(self._source.kind, [], self._source.namespace)
                    self.is_installed = False
                    self._settled.set()
                    version = None
                    self._stopping.wait(ABSENT_WAIT_SECONDS)
                else:
                    self._wait(error)

    def _list(self) -> str:
        query = {"limit": PAGE, **self._selector()}
        items: list[Object] = []
        while True:
            page = self._api.list(self._source.kind, self._source.namespace, **query)
            items += [projected(self._source.kind, item) for item in page["items"]]
            token = page["metadata"].get("continue")
            if not token:
                break
            query["continue"] = token
        self._cache.replace(self._source.kind, items, self._source.namespace)
        self.heard_at = time.monotonic()
        self.is_installed = True
        self._settled.set()
        version: str = page["metadata"]["resourceVersion"]
        return version

    def _watch(self, version: str) -> Iterator[str]:
        """Take in changes until the server ends the connection; yields each one's version."""
        events = self._api.watch(
            self._source.kind,
            self._source.namespace,
            since=version,
            silence_seconds=self._silence_seconds,
            **self._selector(),
        )
        for event in events:
            self.heard_at = time.monotonic()
            if event.kind == "DELETED":
                self._cache.remove(self._source.kind, projected(self._source.kind, event.object))
            elif event.kind != "BOOKMARK":
                self._cache.put(self._source.kind, projected(self._source.kind, event.object))
            yield event.object["metadata"]["resourceVersion"]
            if self._stopping.is_set():
                return

    def _selector(self) -> dict[str, str]:
        return {"labelSelector": self._source.selector} if self._source.selector else {}

    def _wait(self, error: ApiError) -> None:
        """Wait longer with each failure in a row, by the server's word if it gave one."""
        wait = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** min(self._failures, 10))
        if self._failures == 3:
            logger.warning("%s cannot be watched: %s", self._source.kind.plural, error)
        self._failures += 1
        wait = error.retry_after or wait * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        self._stopping.wait(wait)
