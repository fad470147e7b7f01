"""The service's routes, and what stands before them: keys, limits, errors in OpenAI's form."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from pangu_core.errors import ConfigError
from pangu_core.service import answers, metrics
from pangu_core.service.accounting import CLIENT_LEFT, COMPLETIONS, Accounting
from pangu_core.service.answers import ApiError
from pangu_core.service.completions import Completions
from pangu_core.service.health import Health
from pangu_core.service.keys import Keyring
from pangu_core.service.metrics import Metrics
from pangu_core.service.requests import field_of, read_request
from pangu_core.service.writing import Served

MAX_BODY_BYTES: Final = 2**20
BODY_SECONDS: Final = 30.0  # for a client to send its request
logger = logging.getLogger(__name__)


class Service:
    """One model behind HTTP.

    Args:
        served: the model.
        health: its probes.
        keys: who may ask.

    Attributes:
        app: the ASGI application.
        completions: the requests that are being answered.
    """

    def __init__(self, served: Served, health: Health, keys: Keyring) -> None:
        self._served, self._health, self._keys = served, health, keys
        self._metrics = Metrics(served.engine)
        self.completions = Completions(served, self._metrics)
        self.app = Starlette(
            routes=[
                Route(COMPLETIONS, self._complete, methods=["POST"]),
                Route("/v1/models", self._guarded(self._models)),
                Route("/v1/models/{name:path}", self._guarded(self._model)),
                Route("/livez", self._livez),
                Route("/readyz", self._readyz),
                Route("/metrics", self._show_metrics),
            ],
            middleware=[Middleware(Accounting, health=health, metrics=self._metrics)],
            exception_handlers={
                ApiError: _as_answer,
                HTTPException: _as_answer,
                Exception: _as_answer,
            },
        )

    async def _complete(self, request: Request) -> Response:
        self._check_key(request)
        if self._health.closed:
            raise answers.unavailable("the service is shutting down", "shutting_down", 1)
        try:
            wanted = read_request(await _read_json(request))
        except ConfigError as error:
            raise answers.bad_request(error, field_of(error)) from error
        self._check_name(wanted.model)
        return await self.completions.answer(request, wanted)

    async def _models(self, request: Request) -> Response:
        return _json({"object": "list", "data": [self._card()]})

    async def _model(self, request: Request) -> Response:
        self._check_name(request.path_params["name"])
        return _json(self._card())

    async def _livez(self, request: Request) -> Response:
        return _probe(self._health.why_dead())

    async def _readyz(self, request: Request) -> Response:
        return _probe(await self._health.why_not_ready())

    async def _show_metrics(self, request: Request) -> Response:
        return Response(self._metrics.text(), headers={"Content-Type": metrics.CONTENT_TYPE})

    def _guarded(
        self, endpoint: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def with_key(request: Request) -> Response:
            self._check_key(request)
            return await endpoint(request)

        return with_key

    def _check_key(self, request: Request) -> None:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if self._keys.is_open or (scheme.lower() == "bearer" and self._keys.accepts(key.strip())):
            return
        raise ApiError(
            401,
            "a valid API key is required; send it as 'Authorization: Bearer KEY'",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )

    def _check_name(self, name: str) -> None:
        if name != self._served.name:
            raise ApiError(
                404,
                f"model: {name}: there is no such model here; use {self._served.name}",
                param="model",
                code="model_not_found",
            )

    def _card(self) -> dict[str, Any]:
        return answers.model_card(self._served.name, self._served.created, self._served.max_length)


async def _read_json(request: Request) -> Any:
    """The body, within bounds of size and time."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > MAX_BODY_BYTES:
                    raise ApiError(413, f"the body must have at most {MAX_BODY_BYTES} bytes")
    except TimeoutError as error:
        raise ApiError(408, f"the body must arrive within {BODY_SECONDS:.0f} s") from error
    except ClientDisconnect as error:
        raise ApiError(CLIENT_LEFT, "the client went away") from error
    try:
        return json.loads(bytes(body))
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body must be JSON: {error}", code="invalid_json") from error


def _json(value: Any) -> Response:
    return Response(answers.to_json(value), media_type="application/json")


def _probe(reason: str | None) -> Response:
    return PlainTextResponse(f"{reason or 'ok'}\n", status_code=503 if reason else 200)


def _as_answer(request: Request, error: Exception) -> Response:
    """Any error as an answer; what was not foreseen says nothing about our inside."""
    if isinstance(error, HTTPException):
        error = ApiError(error.status_code, f"{request.method} {request.url.path}: {error.detail}")
    elif not isinstance(error, ApiError):
        error = ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error", kind="server_error")
    content = answers.to_json(error.body)
    return Response(content, error.status, error.headers, media_type="application/json")
