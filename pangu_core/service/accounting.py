"""Counts and logs every request to /v1/completions, however it ends. Prompts are not logged."""

import logging
import time
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pangu_core.service.health import Health
from pangu_core.service.metrics import Metrics

COMPLETIONS: Final = "/v1/completions"
CLIENT_LEFT: Final = 499  # nginx's number for it
_RECORD: Final = "pangu_record"
logger = logging.getLogger(__name__)


@dataclass
class Record:
    """What is known about a request; filled in while it is answered."""

    began: float = field(default_factory=time.monotonic)
    status: int = 500
    id: str = "-"
    num_prompt_tokens: int = 0
    num_completion_tokens: int = 0

    @property
    def seconds(self) -> float:
        """Time since the request arrived."""
        return time.monotonic() - self.began


def record_of(scope: MutableMapping[str, Any]) -> Record:
    """The record of a request to /v1/completions."""
    record = scope[_RECORD]
    assert isinstance(record, Record)
    return record


class Accounting:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, health: Health, metrics: Metrics) -> None:
        self._app, self._health, self._metrics = app, health, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the application answer, and note how it ended."""
        if scope["type"] != "http" or scope["path"] != COMPLETIONS:
            await self._app(scope, receive, send)
            return
        record = scope[_RECORD] = Record()

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                if self._health.draining:  # the client's next request goes to another pod
                    MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        self._health.num_open += 1
        try:
            await self._app(scope, receive, noting)
        finally:
            self._health.num_open -= 1
            self._metrics.requests.labels(status=str(record.status)).inc()
            logger.info(
                "%s: status %d, %d tokens read, %d written, %.2f s",
                record.id,
                record.status,
                record.num_prompt_tokens,
                record.num_completion_tokens,
                record.seconds,
            )
