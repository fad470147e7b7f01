"""/v1/completions, from a valid request to its answer: whole, or as a stream of events."""

import asyncio
import math
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from pangu_core.errors import ConfigError, PanguError
from pangu_core.generation.text import Completion, Piece
from pangu_core.service import answers
from pangu_core.service.accounting import CLIENT_LEFT, Record, record_of
from pangu_core.service.answers import ApiError, Head
from pangu_core.service.engine import QueueFullError
from pangu_core.service.metrics import Metrics
from pangu_core.service.requests import CompletionRequest
from pangu_core.service.writing import CutError, Order, Served, TooLongError, Writing, read_order

MAX_RETRY_SECONDS: Final = 60
# Proxies must pass events on as they come.
_STREAM_HEADERS: Final = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


@dataclass(frozen=True)
class _Answering:
    """A request that the engine has taken on."""

    request: CompletionRequest
    order: Order
    writing: Writing
    head: Head
    record: Record


class Completions:
    """Answers requests, and knows which ones are open."""

    def __init__(self, served: Served, metrics: Metrics) -> None:
        self._served, self._metrics = served, metrics
        self._open: set[Writing] = set()

    async def answer(self, request: Request, wanted: CompletionRequest) -> Response:
        """The response to a valid request.

        Raises:
            ApiError: it does not fit the model, or there is no place for it now.
        """
        order = await self._read_order(wanted)
        record = record_of(request.scope)
        record.num_prompt_tokens = order.num_prompt_tokens
        record.id = f"cmpl-{secrets.token_hex(12)}"
        head = Head(record.id, int(time.time()), self._served.name)
        answering = _Answering(wanted, order, self._begin(order), head, record)
        if wanted.stream:
            return _EventStream(self, answering)
        try:
            return await self._whole(request, answering)
        finally:
            self.end(answering)

    def cut(self) -> None:
        """End what is open with an error, as there is no time left."""
        for writing in list(self._open):
            writing.cut()

    def end(self, answering: _Answering) -> None:
        """Nobody waits for this any more."""
        answering.writing.close()
        self._open.discard(answering.writing)
        self._metrics.request_seconds.observe(answering.record.seconds)

    async def events(self, answering: _Answering) -> AsyncIterator[bytes]:
        """The stream: pieces of text, perhaps the usage, and the end."""
        options = answering.request.stream_options
        with_usage = options is not None and options.include_usage
        rest: dict[str, Any] = {"usage": None} if with_usage else {}
        head, record = answering.head, answering.record
        try:
            for index, echo in enumerate(answering.order.echoes):
                if echo:
                    yield _event(head, [answers.choice(index, echo, None)], rest)
            async for piece in self._pieces(answering):
                if piece.text or piece.completion:
                    reason = piece.completion.finish_reason if piece.completion else None
                    choice = answers.choice(piece.prompt, piece.text, reason)
                    yield _event(head, [choice], rest)
        except PanguError as error:
            failed = _failed(error)
            record.status = failed.status
            yield answers.to_event(failed.body)
            return
        if with_usage:
            yield _event(head, [], {"usage": _usage(record)})
        yield answers.END_OF_STREAM

    async def _read_order(self, wanted: CompletionRequest) -> Order:
        num_rows = len(wanted.prompts) * wanted.n
        if num_rows > self._served.engine.capacity:
            raise ApiError(
                400,
                f"n: {num_rows} texts: at most {self._served.engine.capacity} in one request; "
                "send several requests",
                param="n" if wanted.n > 1 else "prompt",
                code="too_many_texts",
            )
        try:
            # In a thread: segmentation of a long prompt takes a while.
            return await asyncio.to_thread(
                read_order, wanted, self._served, seed=secrets.randbits(63)
            )
        except TooLongError as error:
            raise answers.bad_request(error, "prompt", "context_length_exceeded") from error
        except ConfigError as error:
            raise answers.bad_request(error, "prompt") from error

    def _begin(self, order: Order) -> Writing:
        try:
            writing = Writing(order, self._served)
        except QueueFullError as error:
            raise ApiError(
                429,
                "the queue is full; try again later",
                kind="rate_limit_error",
                code="queue_full",
                headers={"Retry-After": str(self._retry_seconds())},
            ) from error
        except PanguError as error:
            raise _failed(error) from error
        self._open.add(writing)
        self._metrics.prompt_tokens.inc(order.num_prompt_tokens)
        return writing

    def _retry_seconds(self) -> int:
        """When a place may be free: as long as the queue takes at the pace of late."""
        engine = self._served.engine
        stats = engine.stats()
        seconds = stats.row_seconds * (stats.waiting + 1) / engine.places
        return min(max(math.ceil(seconds), 1), MAX_RETRY_SECONDS)

    async def _whole(self, request: Request, answering: _Answering) -> Response:
        """The answer in one piece, unless the client goes away before it is there."""
        collecting = asyncio.create_task(self._collect(answering))
        leaving = asyncio.create_task(_has_left(request))
        try:
            await asyncio.wait({collecting, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not collecting.done():
                return Response(status_code=CLIENT_LEFT)
            return collecting.result()
        except PanguError as error:
            raise _failed(error) from error
        finally:
            collecting.cancel()
            leaving.cancel()

    async def _collect(self, answering: _Answering) -> Response:
        done: dict[int, Completion] = {}
        async for piece in self._pieces(answering):
            if piece.completion is not None:
                done[piece.prompt] = piece.completion
        choices = [
            answers.choice(index, echo + done[index].text, done[index].finish_reason)
            for index, echo in enumerate(answering.order.echoes)
        ]
        body = answers.completion(answering.head, choices, usage=_usage(answering.record))
        return Response(answers.to_json(body), media_type="application/json")

    async def _pieces(self, answering: _Answering) -> AsyncIterator[Piece]:
        """The pieces, counted."""
        record, first = answering.record, True
        async for piece in answering.writing.pieces():
            if first:
                self._metrics.first_token_seconds.observe(record.seconds)
                first = False
            if piece.completion is not None:
                record.num_completion_tokens += len(piece.completion.ids)
                self._metrics.completion_tokens.inc(len(piece.completion.ids))
            yield piece


class _EventStream(StreamingResponse):
    """A stream that lets go of the engine when it ends, even if it never began."""

    def __init__(self, completions: Completions, answering: _Answering) -> None:
        super().__init__(
            completions.events(answering), headers=_STREAM_HEADERS, media_type="text/event-stream"
        )
        self._completions, self._answering = completions, answering
        self._complete = False

    async def stream_response(self, send: Send) -> None:
        """Send all of it."""
        await super().stream_response(send)
        self._complete = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the end, or until the client goes away."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            if not self._complete:
                self._answering.record.status = CLIENT_LEFT
            self._completions.end(self._answering)


async def _has_left(request: Request) -> None:
    """Return when the client has gone away; its request must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _event(head: Head, choices: list[dict[str, Any]], rest: dict[str, Any]) -> bytes:
    return answers.to_event(answers.completion(head, choices, **rest))


def _usage(record: Record) -> dict[str, int]:
    return answers.usage(record.num_prompt_tokens, record.num_completion_tokens)


def _failed(error: PanguError) -> ApiError:
    """The engine's failure as an answer."""
    if isinstance(error, CutError):
        return answers.unavailable(str(error), "shutting_down", 1)
    return ApiError(500, str(error), kind="server_error", code="generation_failed")
