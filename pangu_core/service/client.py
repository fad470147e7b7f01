"""A client for ``pangu generate --service``: the standard library alone, and no torch."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from http.client import HTTPException, HTTPResponse
from typing import Any, Final
from urllib.parse import urlsplit

from pangu_core.errors import ConfigError, PanguError, RemoteError
from pangu_core.generation.settings import GenerationSettings

TIMEOUT_SECONDS: Final = 300.0  # without a byte; a request may wait in the queue for long
_EVENT: Final = b"data: "
_END: Final = b"[DONE]"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Goes nowhere else: the key is for the address that the user named."""

    def redirect_request(self, *_args: object, **_more: object) -> None:
        """Follow nothing; the answer is then an error."""


class Client:
    """A service, by its address.

    Args:
        url: of the service, with or without /v1.
        key: an API key, if it asks for one.

    Raises:
        ConfigError: that is no address, or no key.
    """

    def __init__(self, url: str, key: str | None) -> None:
        if not _is_address(url):
            raise ConfigError(
                "--service",
                seen=url,
                rule="must be an http address",
                fix="e.g. http://localhost:8000",
            )
        self._url = url.rstrip("/").removesuffix("/v1")
        self._headers = {"Content-Type": "application/json"}
        if key and not (key.isascii() and key.isprintable()):
            raise ConfigError(
                "API key",
                seen="characters that no header can hold",
                rule="must be printable ASCII",
                fix="write it again, without a line break",
            )
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._model: str | None = None

    def stream(
        self, prompts: Sequence[str], settings: GenerationSettings
    ) -> Iterator[tuple[int, str, str | None]]:
        """Number of a prompt, new text of it, and with its last piece the finish reason.

        Raises:
            ConfigError: the service refuses the request or the key.
            RemoteError: it cannot be reached, is busy, or breaks off.
        """
        if self._model is None:
            self._model = self._name()
        with self._open("/v1/completions", _body(self._model, prompts, settings)) as response:
            for event in self._events(response):
                if "error" in event:
                    raise self._refused(500, event)
                for choice in event["choices"]:
                    yield choice["index"], choice["text"], choice["finish_reason"]

    def _name(self) -> str:
        """What the service calls its model."""
        with self._open("/v1/models") as response:
            try:
                return str(json.load(response)["data"][0]["id"])
            except (OSError, HTTPException) as error:
                raise self._unreachable(str(error)) from error
            except (ValueError, LookupError, TypeError) as error:
                raise self._unreachable("what came is not an answer of such a service") from error

    def _open(self, path: str, body: dict[str, Any] | None = None) -> HTTPResponse:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, self._headers)  # noqa: S310 - checked
        try:
            opener = urllib.request.build_opener(_NoRedirect)
            response: HTTPResponse = opener.open(request, timeout=TIMEOUT_SECONDS)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refused(error.code, _read_error(error.read())) from error
        except (OSError, HTTPException) as error:
            raise self._unreachable(str(getattr(error, "reason", error))) from error
        return response

    def _events(self, response: HTTPResponse) -> Iterator[dict[str, Any]]:
        try:
            for line in response:
                if line.startswith(_EVENT):
                    data = line.removeprefix(_EVENT).strip()
                    if data == _END:
                        return
                    yield json.loads(data)
        except (OSError, HTTPException, ValueError) as error:
            raise self._unreachable(str(error)) from error
        raise self._unreachable("the answer broke off")

    def _refused(self, status: int, body: Any) -> PanguError:
        """What the service said, as an error of the kind that its status means."""
        message = body.get("error", {}).get("message", "") if isinstance(body, dict) else ""
        seen = f"{status} {message}".strip()
        if status in (401, 403):
            return ConfigError(
                "--service",
                seen=seen,
                rule=f"{self._url} must accept the API key",
                fix="set PANGU_API_KEY, or pass --api-key-file",
            )
        if status in (429, 503):
            return RemoteError(
                "--service", seen=seen, rule=f"{self._url} must have a place", fix="try again later"
            )
        kind = ConfigError if status < 500 else RemoteError
        return kind(
            "--service", seen=seen, rule=f"{self._url} must take the request", fix="see its message"
        )

    def _unreachable(self, reason: str) -> RemoteError:
        return RemoteError(
            "--service",
            seen=self._url,
            rule=f"must answer ({reason})",
            fix="check the address, and that the service is ready: GET /readyz",
        )


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and parts.port != 0  # reading the port checks it
    except ValueError:
        return False
    return usable and parts.scheme in ("http", "https") and url.isascii() and " " not in url


def _body(model: str, prompts: Sequence[str], settings: GenerationSettings) -> dict[str, Any]:
    return {
        "model": model,
        "prompt": list(prompts),
        "max_tokens": settings.max_new_tokens,
        "temperature": 0.0 if settings.greedy else settings.temperature,
        "top_k": settings.top_k,
        "top_p": settings.top_p,
        "repetition_penalty": settings.repetition_penalty,
        "seed": settings.seed,
        "stop": list(settings.stop),
        "stream": True,
    }


def _read_error(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None
