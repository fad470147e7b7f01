"""Prompts to texts, all at once or piece by piece; one loop makes both, so they agree."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pangu_core.data.tokenizer import StreamDecoder, Tokenizer
from pangu_core.generation.decoding import Decoder, check_prompts
from pangu_core.generation.language_model import LanguageModel
from pangu_core.generation.sampling import stream_seed
from pangu_core.generation.settings import GenerationSettings
from pangu_core.generation.stops import StopFilter

FinishReason = Literal["eod", "stop", "length"]


@dataclass(frozen=True)
class Completion:
    """The text that follows one prompt.

    Attributes:
        text: whole characters; cut before a stop string.
        ids: the tokens drawn, without the end mark; those of a stop string are still among them.
        finish_reason: eod: the model ended the document; stop: a stop string; length:
            max_new_tokens, or the position table is full.
        num_prompt_tokens: tokens that the model read first.
    """

    text: str
    ids: tuple[int, ...]
    finish_reason: FinishReason
    num_prompt_tokens: int


@dataclass(frozen=True)
class Piece:
    """New text of one prompt; its last piece carries the completion."""

    prompt: int
    text: str
    completion: Completion | None = None


class GrowingText:
    """One prompt's text as it grows.

    Args:
        tokenizer: turns ids into text.
        settings: where the text ends.
        num_prompt: tokens of the prompt.
        room: tokens that the model can still read.
    """

    def __init__(
        self, tokenizer: Tokenizer, settings: GenerationSettings, num_prompt: int, room: int
    ) -> None:
        self._eod_id = tokenizer.eod_id
        self._limit = min(settings.max_new_tokens, room)
        self._num_prompt = num_prompt
        self._decoder = StreamDecoder(tokenizer)
        self._filter = StopFilter(settings.stop)
        self._ids: list[int] = []
        self._texts: list[str] = []

    def feed(self, token_id: int) -> tuple[str, Completion | None]:
        """Take the next token; returns the new text, and the completion if this was the last."""
        if token_id == self._eod_id:
            return self._end("", "eod")
        self._ids.append(token_id)
        text, stopped = self._filter.feed(self._decoder.feed(token_id))
        if stopped:
            self._texts.append(text)
            return text, self._completion("stop")
        if len(self._ids) == self._limit:
            return self._end(text, "length")
        self._texts.append(text)
        return text, None

    def _end(self, text: str, reason: FinishReason) -> tuple[str, Completion]:
        """Let go what was held back, which may still complete a stop string."""
        rest, stopped = self._filter.feed(self._decoder.finish())
        text += rest if stopped else rest + self._filter.finish()
        self._texts.append(text)
        return text, self._completion("stop" if stopped else reason)

    def _completion(self, reason: FinishReason) -> Completion:
        return Completion("".join(self._texts), tuple(self._ids), reason, self._num_prompt)


def stream(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    settings: GenerationSettings,
) -> Iterator[Piece]:
    """Generate piece by piece; pieces of prompts that run together are interleaved.

    An empty prompt begins a new document: the model is given the end mark of the one before, as
    Megatron's unconditional samples do.

    Raises:
        ConfigError: a prompt does not fit the model; before the first piece.
        CheckpointError: the model's scores are not finite.
    """
    contexts = [tokenizer.encode(prompt) or [tokenizer.eod_id] for prompt in prompts]
    check_prompts(contexts, model)
    seeds = row_seeds(contexts, settings.seed)
    for start in range(0, len(contexts), settings.batch_size):
        part = slice(start, start + settings.batch_size)
        decoder = Decoder(model, contexts[part], seeds[part], settings)
        for piece in _run(decoder, contexts[part], tokenizer, settings, model):
            yield Piece(start + piece.prompt, piece.text, piece.completion)


def generate(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    settings: GenerationSettings,
) -> list[Completion]:
    """The completion of each prompt, in their order. Raises what ``stream`` raises."""
    pieces = stream(model, tokenizer, prompts, settings)
    done = {piece.prompt: piece.completion for piece in pieces if piece.completion}
    return [done[number] for number in range(len(prompts))]


def _run(
    decoder: Decoder,
    contexts: Sequence[Sequence[int]],
    tokenizer: Tokenizer,
    settings: GenerationSettings,
    model: LanguageModel,
) -> Iterator[Piece]:
    length = model.config.sequence_length
    rows = [GrowingText(tokenizer, settings, len(c), length - len(c)) for c in contexts]
    while decoder.rows:
        finished = set()
        for row, token_id in decoder.step().items():
            text, completion = rows[row].feed(token_id)
            if completion is not None:
                finished.add(row)
            if text or completion is not None:
                yield Piece(row, text, completion)
        decoder.drop(finished)


def row_seeds(contexts: Sequence[Sequence[int]], seed: int) -> list[int]:
    """One per prompt: equal prompts get different ones, in their order."""
    copies: Counter[tuple[int, ...]] = Counter()
    seeds = []
    for context in map(tuple, contexts):
        seeds.append(stream_seed(seed, context, copies[context]))
        copies[context] += 1
    return seeds
