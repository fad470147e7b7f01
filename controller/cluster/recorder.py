"""Events of a job: one for each change worth a line, in the background, never in the way."""

import logging
import queue
import threading
import uuid
from datetime import UTC, datetime
from typing import Any, Final

from controller.cluster.api import Api, ApiError
from controller.cluster.kinds import EVENT

Object = dict[str, Any]
COMPONENT: Final = "pangu-controller"
WAITING_LIMIT: Final = 1_000  # more than these are dropped: events are a courtesy
MESSAGE_LIMIT: Final = 1_024  # of the API
logger = logging.getLogger(__name__)


class Recorder:
    """Writes events in a thread of its own."""

    def __init__(self, api: Api, identity: str) -> None:
        self._api, self._identity = api, identity
        self._waiting: queue.Queue[Object | None] = queue.Queue(WAITING_LIMIT)
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self._thread.start()

    def tell(self, about: Object, reason: str, message: str, *, is_warning: bool) -> None:
        """Record an event about an object.

        Args:
            about: the object.
            reason: a CamelCase word.
            message: a sentence.
            is_warning: somebody may have to act.
        """
        metadata = about["metadata"]
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        event = {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.name,
            "metadata": {
                "name": f"{metadata['name']}.{uuid.uuid4().hex[:16]}",
                "namespace": metadata["namespace"],
            },
            "involvedObject": {
                "apiVersion": about["apiVersion"],
                "kind": about["kind"],
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "uid": metadata["uid"],
            },
            "reason": reason,
            "message": message[:MESSAGE_LIMIT],
            "type": "Warning" if is_warning else "Normal",
            "source": {"component": COMPONENT, "host": self._identity},
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "count": 1,
        }
        try:
            self._waiting.put_nowait(event)
        except queue.Full:
            logger.warning("too many events wait: dropped %s of %s", reason, metadata["name"])

    def close(self) -> None:
        """Write what waits, for two seconds at most."""
        self._waiting.put(None)
        self._thread.join(timeout=2.0)

    def _run(self) -> None:
        while (event := self._waiting.get()) is not None:
            try:
                self._api.create(EVENT, event, event["metadata"]["namespace"])
            except ApiError as error:
                logger.warning("an event was not written: %s", error)
