"""What a client may ask for at /v1/completions: OpenAI's fields, each honoured or refused by name."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from pangu_core import loading
from pangu_core.config.base import Items
from pangu_core.errors import ConfigError
from pangu_core.generation.settings import GenerationSettings

Prompt = str | tuple[int, ...]

MAX_STOPS: Final = 16
MAX_STOP_LENGTH: Final = 256  # characters
# OpenAI's fields that nothing here does, and the values by which they ask for nothing.
_WITHOUT_EFFECT: Final[dict[str, tuple[Any, ...]]] = {
    "best_of": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (),
    "suffix": ("",),
}


def _read_prompts(value: Any) -> tuple[Prompt, ...]:
    """A text, token ids, or a list of either, as prompts."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and value:
        if all(isinstance(each, str) for each in value):
            return tuple(value)
        if _are_ids(value):
            return (tuple(value),)
        if all(isinstance(each, list) and each and _are_ids(each) for each in value):
            return tuple(tuple(each) for each in value)
    raise loading.broken_rule(
        "must be a text, a list of texts, token ids, or a list of lists of token ids",
        "send for example a text",
    )


def _are_ids(values: list[Any]) -> bool:
    return all(type(each) is int for each in values)


def _read_stops(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class StreamOptions(BaseModel):
    """``stream_options``."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    include_usage: bool = False


class CompletionRequest(BaseModel):
    """The body of a request; ``top_k`` and ``repetition_penalty`` are ours, the rest OpenAI's."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    model: str
    prompts: Annotated[
        tuple[Prompt, ...], Field(alias="prompt", strict=False), BeforeValidator(_read_prompts)
    ]
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] = 16
    temperature: Annotated[float, Field(ge=0, le=100)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0, lt=2**31)] = 0
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    n: Annotated[int, Field(ge=1, le=1024)] = 1
    stop: Annotated[
        Items[Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]],
        Field(max_length=MAX_STOPS),
        BeforeValidator(_read_stops),
    ] = ()
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    echo: bool = False
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None

    def settings(self, seed: int) -> GenerationSettings:
        """The rules for the generator; ``seed`` where the request has none."""
        return GenerationSettings(
            max_new_tokens=self.max_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            repetition_penalty=self.repetition_penalty,
            seed=seed if self.seed is None else self.seed,
            stop=self.stop,
        )


def read_request(body: Any) -> CompletionRequest:
    """Validate the JSON of a request; null is what a missing field is.

    Raises:
        ConfigError: whose subject is the field that is wrong.
    """
    if not isinstance(body, Mapping):
        raise ConfigError(
            "body",
            seen=type(body).__name__,
            rule="must be a JSON object",
            fix='send {"model": ...}',
        )
    given = {key: value for key, value in body.items() if value is not None}
    for field, neutral in _WITHOUT_EFFECT.items():
        if field in given and given.pop(field) not in neutral:
            raise ConfigError(field, seen=body[field], rule="is not supported", fix="leave it out")
    request = loading.load(CompletionRequest, given)
    if request.stream_options is not None and not request.stream:
        raise ConfigError(
            "stream_options",
            seen="given",
            rule="is for streams only",
            fix="add stream: true, or leave it out",
        )
    return request


def field_of(error: ConfigError) -> str:
    """The field of the request that an error is about, without the place inside it."""
    return re.split(r"[. ]", error.subject)[0]
