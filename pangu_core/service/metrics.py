"""What Prometheus reads. The queue's depth is what the number of pods should follow."""

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from pangu_core.service.engine import Engine

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


class Metrics:
    """The counters of one service.

    Attributes:
        requests: ended requests to /v1/completions, by HTTP status; 499: the client went away.
        prompt_tokens: tokens of the prompts that were taken on.
        completion_tokens: tokens written, of rows that ended.
        first_token_seconds: from a request's arrival to its first text.
        request_seconds: from a request's arrival to its end, of those taken on.
    """

    def __init__(self, engine: Engine) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._gauge("queue_depth", "Texts that wait for a place.", lambda: engine.stats().waiting)
        self._gauge("running", "Texts that are being written.", lambda: engine.stats().running)
        self._gauge("places", "Texts that can be written at one time.", lambda: engine.places)
        self._gauge(
            "stalled_seconds",
            "Time since the last token, while there is work.",
            lambda: engine.stats().stalled_seconds,
        )
        self.requests = Counter(
            "pangu_serve_requests", "Ended requests.", ["status"], registry=self._registry
        )
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens read.")
        self.completion_tokens = self._counter("completion_tokens", "Tokens written.")
        self.first_token_seconds = self._histogram("first_token", "From request to first text.")
        self.request_seconds = self._histogram("request", "From request to the end of its answer.")

    def text(self) -> bytes:
        """What /metrics answers."""
        return generate_latest(self._registry)

    def _gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        Gauge(f"pangu_serve_{name}", text, registry=self._registry).set_function(value)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"pangu_serve_{name}", text, registry=self._registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(
            f"pangu_serve_{name}_seconds", text, buckets=_SECONDS, registry=self._registry
        )
