"""What the service asks of an engine, and nothing about how it works. Must not import torch.

An engine reads prompts and makes tokens; text, stop strings and HTTP are the service's.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from pangu_core.errors import PanguError
from pangu_core.generation.settings import GenerationSettings


@dataclass(frozen=True)
class Row:
    """One text to write.

    Attributes:
        prompt: token ids, at least one, that leave room for ``settings.max_new_tokens``.
        stream: seed of the row's draws (``sampling.stream_seed``).
        settings: how tokens are chosen, and how many; stop strings are not the engine's.
    """

    prompt: tuple[int, ...]
    stream: int
    settings: GenerationSettings


@dataclass(frozen=True)
class Token:
    """The next token of a row, counted from 0 in its request.

    A row ends with the end mark or with its ``max_new_tokens``-th token, without further notice.
    """

    row: int
    token_id: int


@dataclass(frozen=True)
class Failure:
    """A row ends without its rest."""

    row: int
    error: PanguError


Event = Token | Failure
Deliver = Callable[[Event], None]


@dataclass(frozen=True)
class Stats:
    """How an engine is doing.

    Attributes:
        waiting: rows that have not begun.
        running: rows that are being written.
        num_tokens: tokens made since the start.
        row_seconds: how long a row lately took from its first token to its last; 0: none has ended.
        idle_seconds: time since the last token; since the start, before the first.
        stalled_seconds: the same while there is work, counted from the work's arrival; else 0.
        error: what ended the engine.
    """

    waiting: int = 0
    running: int = 0
    num_tokens: int = 0
    row_seconds: float = 0.0
    idle_seconds: float = 0.0
    stalled_seconds: float = 0.0
    error: BaseException | None = None


class QueueFullError(Exception):
    """There is no place for these rows now."""


class Engine(Protocol):
    """Safe to call from any thread; nothing here waits for the model."""

    @property
    def places(self) -> int:
        """Rows that may run at one time."""

    @property
    def capacity(self) -> int:
        """Rows that may run and wait at one time: no request can have more."""

    def submit(self, rows: Sequence[Row], deliver: Deliver) -> int:
        """Take a request on; returns its number.

        Args:
            rows: the texts to write.
            deliver: gets the events of all rows, in each row's order, in a thread of the engine.

        Raises:
            QueueFullError: not all rows find a place; none is taken.
            PanguError: the engine has ended.
        """

    def abort(self, request: int, rows: Collection[int] | None = None) -> None:
        """Stop rows of a request, or all of it; what has ended already is no matter."""

    def stats(self) -> Stats:
        """How it is doing."""

    def stop(self) -> None:
        """End the engine; rows that have not ended get no more events."""
