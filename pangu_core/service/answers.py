"""The objects that go out, in OpenAI's forms. Pure; must not import torch."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pangu_core.errors import ConfigError

END_OF_STREAM: Final = b"data: [DONE]\n\n"
# Ours -> OpenAI's.
_FINISH_REASONS: Final = {"eod": "stop", "stop": "stop", "length": "length"}


class ApiError(Exception):
    """An answer that is an error.

    Args:
        status: of HTTP.
        message: for a person.
        kind: OpenAI's ``type``.
        param: the field at fault.
        code: for a program.
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers or {}
        self.body = {
            "error": {"message": message, "type": kind, "param": param, "code": code},
        }


def bad_request(error: ConfigError, param: str, code: str = "invalid_value") -> ApiError:
    """A request that cannot be carried out as it stands."""
    return ApiError(400, str(error), param=param, code=code)


def unavailable(message: str, code: str, retry_seconds: int) -> ApiError:
    """A service that takes nothing on just now."""
    return ApiError(
        503,
        message,
        kind="server_error",
        code=code,
        headers={"Retry-After": str(retry_seconds)},
    )


@dataclass(frozen=True)
class Head:
    """What all objects of one answer share."""

    id: str
    created: int
    model: str


def choice(index: int, text: str, finish_reason: str | None) -> dict[str, Any]:
    """One text, or a piece of it; with a finish reason it is the last piece."""
    reason = None if finish_reason is None else _FINISH_REASONS[finish_reason]
    return {"index": index, "text": text, "logprobs": None, "finish_reason": reason}


def usage(num_prompt: int, num_completion: int) -> dict[str, int]:
    """Token counts: each prompt once, the end mark not among what was written."""
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_completion,
        "total_tokens": num_prompt + num_completion,
    }


def completion(head: Head, choices: Sequence[dict[str, Any]], **rest: Any) -> dict[str, Any]:
    """A whole answer, or an object of a stream; ``rest`` may hold ``usage``."""
    return {"object": "text_completion", **vars(head), "choices": list(choices), **rest}


def model_card(name: str, created: int, max_length: int) -> dict[str, Any]:
    """The model, as /v1/models has it; ``max_model_len`` is what vLLM calls it."""
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "pangu",
        "max_model_len": max_length,
    }


def to_json(value: Any) -> bytes:
    """UTF-8 with Chinese as it is; half a surrogate pair, which UTF-8 cannot hold, becomes "?"."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


def to_event(value: Any) -> bytes:
    """One event of a stream."""
    return b"data: " + to_json(value) + b"\n\n"
