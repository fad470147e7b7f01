"""The loop over tokens: read the prompts at once, then one token of every row at a time.

Rows may have different lengths: each token is read at its own position, padding stands on the
right only and is never seen. A finished row leaves the batch and changes nothing for the others.

Shapes: B rows still running, T tokens, V vocabulary.
"""

from collections.abc import Collection, Sequence

import torch

from pangu_core.errors import CheckpointError, ConfigError
from pangu_core.generation.language_model import LanguageModel
from pangu_core.generation.sampling import next_ids, uniform
from pangu_core.generation.settings import GenerationSettings


class Decoder:
    """The state of one batch.

    Args:
        model: the model.
        prompts: token ids of each row, checked by ``check_prompts``.
        streams: each row's seed (``sampling.stream_seed``).
        settings: the rules.

    Attributes:
        rows: numbers of the prompts that are still running.
    """

    def __init__(
        self,
        model: LanguageModel,
        prompts: Sequence[Sequence[int]],
        streams: Sequence[int],
        settings: GenerationSettings,
    ) -> None:
        self.rows = list(range(len(prompts)))
        self._model, self._settings, self._streams = model, settings, streams
        self._lengths = [len(prompt) for prompt in prompts]
        longest = max(self._lengths)
        capacity = min(longest + settings.max_new_tokens, model.config.sequence_length)
        self._cache = model.new_cache(len(prompts), capacity)
        padded = [[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts]
        self._tokens_BT = torch.tensor(padded, device=model.device)
        self._positions_BT = torch.arange(longest, device=model.device).expand_as(self._tokens_BT)
        shape = (len(prompts), model.config.vocab_size)
        self._seen_BV = torch.zeros(shape, dtype=torch.bool, device=model.device)
        for row, prompt in enumerate(prompts):
            self._seen_BV[row, torch.tensor(list(prompt), device=model.device)] = True

    def step(self) -> dict[int, int]:
        """The next token of every running row.

        Raises:
            CheckpointError: the scores are not finite.
        """
        lengths_B = torch.tensor(
            [self._lengths[row] for row in self.rows], device=self._seen_BV.device
        )
        last_B = lengths_B - 1 - self._positions_BT[:, 0]
        logits_BV = self._model.extend(self._tokens_BT, self._positions_BT, self._cache, last_B)
        if not bool(logits_BV.isfinite().all()):
            raise _not_finite(int(lengths_B.max()))
        uniforms = [uniform(self._streams[row], self._lengths[row]) for row in self.rows]
        ids_B = next_ids(logits_BV, self._settings, seen_BV=self._seen_BV, uniforms_B=uniforms)
        self._tokens_BT, self._positions_BT = ids_B[:, None], lengths_B[:, None]
        self._seen_BV.scatter_(1, ids_B[:, None], True)
        for row in self.rows:
            self._lengths[row] += 1
        return dict(zip(self.rows, ids_B.tolist(), strict=True))

    def drop(self, finished: Collection[int]) -> None:
        """Take rows out of the batch."""
        kept = [index for index, row in enumerate(self.rows) if row not in finished]
        self.rows = [self.rows[index] for index in kept]
        if self.rows and finished:
            kept_B = torch.tensor(kept, device=self._seen_BV.device)
            self._cache.keep(kept_B)
            self._seen_BV = self._seen_BV[kept_B]
            self._tokens_BT = self._tokens_BT[kept_B]
            self._positions_BT = self._positions_BT[kept_B]


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


def _not_finite(length: int) -> CheckpointError:
    return CheckpointError(
        "scores",
        seen=f"not finite after {length} tokens",
        rule="must be finite to choose a token by",
        fix="try --dtype float32 or bfloat16; if it stays, check the weights with 'pangu verify'",
    )
