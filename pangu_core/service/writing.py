"""One request on its way through the engine: prompts in, texts out, piece by piece.

Lives on the event loop; the engine's thread only puts tokens into its queue.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from pangu_core.data.tokenizer import Tokenizer
from pangu_core.errors import ConfigError, PanguError
from pangu_core.generation.sampling import stream_seed
from pangu_core.generation.settings import GenerationSettings
from pangu_core.generation.text import GrowingText, Piece, row_seeds
from pangu_core.service.engine import Engine, Event, Failure, Row
from pangu_core.service.requests import CompletionRequest, Prompt


@dataclass(frozen=True)
class Served:
    """The model that is served.

    Attributes:
        name: what requests call it.
        engine: who writes.
        tokenizer: the model's.
        vocab_size: ids that the model knows.
        max_length: rows of its position table.
        created: Unix time of the service's start.
    """

    name: str
    engine: Engine
    tokenizer: Tokenizer
    vocab_size: int
    max_length: int
    created: int


@dataclass(frozen=True)
class Order:
    """What one request asks the engine for.

    Attributes:
        settings: the rules of all rows.
        rows: the texts to write: ``n`` for the first prompt, then ``n`` for the next.
        echoes: what each row shows of its prompt.
        num_prompt_tokens: of all prompts, each counted once.
    """

    settings: GenerationSettings
    rows: tuple[Row, ...]
    echoes: tuple[str, ...]
    num_prompt_tokens: int


class CutError(PanguError):
    """The service had to end before the text did."""


class TooLongError(ConfigError):
    """Prompt and answer together do not fit into the model's position table."""


def read_order(request: CompletionRequest, served: Served, *, seed: int) -> Order:
    """Work out what to ask the engine for; takes milliseconds for a long prompt.

    Args:
        request: as it came.
        served: the model.
        seed: for a request without one.

    Raises:
        TooLongError: prompt and answer do not fit.
        ConfigError: token ids that the model does not know.
    """
    settings, tokenizer = request.settings(seed), served.tokenizer
    contexts = [_context(prompt, tokenizer) for prompt in request.prompts]
    for context in contexts:
        _check(context, settings.max_new_tokens, served)
    copies = [context for context in contexts for _ in range(request.n)]
    seeds = row_seeds(copies, settings.seed)
    echoes = [_echo(prompt, tokenizer) if request.echo else "" for prompt in request.prompts]
    return Order(
        settings=settings,
        rows=tuple(
            Row(context, stream, settings) for context, stream in zip(copies, seeds, strict=True)
        ),
        echoes=tuple(echo for echo in echoes for _ in range(request.n)),
        num_prompt_tokens=sum(map(len, contexts)),
    )


def one_token(eod_id: int) -> Order:
    """The smallest order: the first token of a new document."""
    settings = GenerationSettings(max_new_tokens=1, greedy=True)
    row = Row((eod_id,), stream_seed(0, (eod_id,), 0), settings)
    return Order(settings, (row,), ("",), 1)


class Writing:
    """An order that the engine has taken on. ``close`` it, whatever happens.

    Args:
        order: what to write.
        served: the model.

    Raises:
        QueueFullError: the engine has no place.
        PanguError: the engine has ended.
    """

    def __init__(self, order: Order, served: Served) -> None:
        self._engine = served.engine
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._texts = [
            GrowingText(served.tokenizer, row.settings, len(row.prompt), served.max_length)
            for row in order.rows
        ]
        self._open = set(range(len(order.rows)))
        loop = asyncio.get_running_loop()

        def deliver(event: Event) -> None:
            with contextlib.suppress(RuntimeError):  # at the end the loop may go before the engine
                loop.call_soon_threadsafe(self._events.put_nowait, event)

        self._request = served.engine.submit(order.rows, deliver)

    async def pieces(self) -> AsyncIterator[Piece]:
        """New text of each row as it comes; the last piece of a row carries its completion.

        Raises:
            PanguError: the engine could not go on with a row.
        """
        while self._open:
            event = await self._events.get()
            if isinstance(event, Failure):
                raise event.error
            if event.row not in self._open:
                continue  # made before the engine heard that a stop string had ended the row
            text, completion = self._texts[event.row].feed(event.token_id)
            if completion is not None:
                self._open.discard(event.row)
                if completion.finish_reason == "stop":
                    self._engine.abort(self._request, [event.row])
            yield Piece(event.row, text, completion)

    def cut(self) -> None:
        """Let ``pieces`` raise CutError instead of going on."""
        error = CutError(
            "service",
            seen="shutting down",
            rule="had no time left to finish this answer",
            fix="send the request again",
        )
        self._events.put_nowait(Failure(0, error))

    def close(self) -> None:
        """Stop what is still being written."""
        if self._open:
            self._engine.abort(self._request)


async def produce_token(served: Served) -> None:
    """Have the engine make one token.

    Raises:
        QueueFullError: the engine has no place.
        PanguError: it cannot.
    """
    writing = Writing(one_token(served.tokenizer.eod_id), served)
    try:
        async for _ in writing.pieces():
            pass
    finally:
        writing.close()


def _context(prompt: Prompt, tokenizer: Tokenizer) -> tuple[int, ...]:
    """What the model reads; an empty prompt begins a new document, as ``text.stream`` does."""
    ids = tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
    return tuple(ids) or (tokenizer.eod_id,)


def _check(context: Sequence[int], num_new: int, served: Served) -> None:
    if min(context) < 0 or max(context) >= served.vocab_size:
        raise ConfigError(
            "prompt",
            seen=f"token ids from {min(context)} to {max(context)}",
            rule=f"must be ids from 0 to {served.vocab_size - 1}",
            fix="use the tokenizer that the model was trained with",
        )
    if len(context) + num_new > served.max_length:
        raise TooLongError(
            "prompt",
            seen=f"{len(context)} tokens and max_tokens {num_new}",
            rule=f"must fit together into the model's {served.max_length} positions",
            fix="shorten the prompt, or ask for fewer tokens",
        )


def _echo(prompt: Prompt, tokenizer: Tokenizer) -> str:
    return prompt if isinstance(prompt, str) else tokenizer.decode(prompt)
