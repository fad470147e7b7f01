"""The loop over tokens: read the prompts at once, then one token of every row at a time.

Rows may have different lengths: each token is read at its own position, padding stands on the
right only and is never seen. A row that leaves the batch, or joins it between two steps, changes
nothing for the others.

Shapes: B rows still running, T tokens, V vocabulary.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from pangu_core.errors import CheckpointError, ConfigError
from pangu_core.generation.language_model import LanguageModel
from pangu_core.generation.sampling import next_ids, uniform
from pangu_core.generation.settings import GenerationSettings


class ScoresError(CheckpointError):
    """Scores that are not finite; ``rows`` are the numbers of the rows that have them."""

    rows: frozenset[int] = frozenset()


@dataclass
class _Row:
    """A running row.

    Attributes:
        number: what the caller knows it by.
        length: tokens so far.
        stream: seed of its draws.
        settings: its rules.
    """

    number: int
    length: int
    stream: int
    settings: GenerationSettings


class Decoder:
    """The state of one batch.

    Args:
        model: the model.
        prompts: token ids of each row, checked by ``check_prompts``.
        streams: each row's seed (``sampling.stream_seed``).
        settings: the rules.
    """

    def __init__(
        self,
        model: LanguageModel,
        prompts: Sequence[Sequence[int]],
        streams: Sequence[int],
        settings: GenerationSettings,
    ) -> None:
        lengths = [len(prompt) for prompt in prompts]
        self._running = [
            _Row(number, length, stream, settings)
            for number, (length, stream) in enumerate(zip(lengths, streams, strict=True))
        ]
        self._next_number = len(prompts)
        self._model = model
        longest = max(lengths)
        capacity = min(longest + settings.max_new_tokens, model.config.sequence_length)
        self._cache = model.new_cache(len(prompts), capacity)
        padded = [[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts]
        self._tokens_BT = torch.tensor(padded, device=model.device)
        self._positions_BT = torch.arange(longest, device=model.device).expand_as(self._tokens_BT)
        shape = (len(prompts), model.config.vocab_size)
        self._seen_BV = torch.zeros(shape, dtype=torch.bool, device=model.device)
        for row, prompt in enumerate(prompts):
            self._seen_BV[row, torch.tensor(list(prompt), device=model.device)] = True

    @property
    def rows(self) -> list[int]:
        """Numbers of the rows that are still running: at first those of the prompts."""
        return [row.number for row in self._running]

    def step(self) -> dict[int, int]:
        """The next token of every running row.

        Raises:
            ScoresError: the scores of some rows are not finite. Nothing has changed then: without
                these rows the step can be done again.
        """
        lengths_B = torch.tensor([row.length for row in self._running], device=self._model.device)
        last_B = lengths_B - 1 - self._positions_BT[:, 0]
        logits_BV = self._model.extend(self._tokens_BT, self._positions_BT, self._cache, last_B)
        if not bool(logits_BV.isfinite().all()):
            raise self._not_finite(logits_BV)
        ids_B = self._choose(logits_BV)
        self._tokens_BT, self._positions_BT = ids_B[:, None], lengths_B[:, None]
        self._seen_BV.scatter_(1, ids_B[:, None], True)
        for row in self._running:
            row.length += 1
        return dict(zip(self.rows, ids_B.tolist(), strict=True))

    def drop(self, finished: Collection[int]) -> None:
        """Take rows out of the batch."""
        kept = [index for index, row in enumerate(self._running) if row.number not in finished]
        changed = len(kept) < len(self._running)
        self._running = [self._running[index] for index in kept]
        if self._running and changed:
            kept_B = torch.tensor(kept, device=self._seen_BV.device)
            self._cache.keep(kept_B)
            self._seen_BV = self._seen_BV[kept_B]
            self._tokens_BT = self._tokens_BT[kept_B]
            self._positions_BT = self._positions_BT[kept_B]

    def join(self, other: "Decoder") -> dict[int, int]:
        """Take over the rows of another decoder, whose prompts are read, as are one's own.

        Returns:
            The number of each row over there, and its number here. ``other`` is used up.
        """
        assert self._tokens_BT.shape[1] == other._tokens_BT.shape[1] == 1
        seen_BV = torch.cat([self._seen_BV, other._seen_BV])
        tokens_BT = torch.cat([self._tokens_BT, other._tokens_BT])
        positions_BT = torch.cat([self._positions_BT, other._positions_BT])
        # The large one: if memory does not suffice for it, nothing has changed yet.
        self._cache.join(other._cache)
        self._seen_BV, self._tokens_BT, self._positions_BT = seen_BV, tokens_BT, positions_BT
        numbers = {}
        for number, row in enumerate(other._running, start=self._next_number):
            numbers[row.number] = number
            row.number = number
        self._next_number += len(other._running)
        self._running += other._running
        return numbers

    def _choose(self, logits_BV: torch.Tensor) -> torch.Tensor:
        """Each row's token by its own rules; rows that share them are drawn together."""
        groups: dict[tuple[float, ...], list[int]] = {}
        for index, row in enumerate(self._running):
            groups.setdefault(row.settings.choice, []).append(index)
        ids_B = torch.empty(len(self._running), dtype=torch.int64, device=logits_BV.device)
        for indices in groups.values():
            rows = [self._running[index] for index in indices]
            part = torch.tensor(indices, device=logits_BV.device)
            ids_B[part] = next_ids(
                logits_BV[part],
                rows[0].settings,
                seen_BV=self._seen_BV[part],
                uniforms_B=[uniform(row.stream, row.length) for row in rows],
            )
        return ids_B

    def _not_finite(self, logits_BV: torch.Tensor) -> ScoresError:
        finite = logits_BV.isfinite().all(dim=-1).tolist()
        broken = [row for row, good in zip(self._running, finite, strict=True) if not good]
        error = ScoresError(
            "scores",
            seen=f"not finite after {max(row.length for row in broken)} tokens",
            rule="must be finite to choose a token by",
            fix="try --dtype float32 or bfloat16; if it stays, check the weights with 'pangu verify'",
        )
        error.rows = frozenset(row.number for row in broken)
        return error


def check_prompts(prompts: Sequence[Sequence[int]], model: LanguageModel) -> None:
    """Refuse what the model cannot read, before anything is generated.

    Raises:
        ConfigError: a prompt fills the position table, or its ids are not the model's.
    """
    length, vocab_size = model.config.sequence_length, model.config.vocab_size
    for number, prompt in enumerate(prompts, start=1):
        if len(prompt) >= length:
            raise ConfigError(
                f"prompt {number}",
                seen=f"{len(prompt)} tokens",
                rule=f"must be shorter than the model's position table ({length} rows)",
                fix=f"cut it to at most {length - 1} tokens",
            )
        if min(prompt) < 0 or max(prompt) >= vocab_size:
            raise ConfigError(
                f"prompt {number}",
                seen=f"token ids from {min(prompt)} to {max(prompt)}",
                rule=f"the model knows ids from 0 to {vocab_size - 1}",
                fix="use the tokenizer that the model was trained with",
            )
