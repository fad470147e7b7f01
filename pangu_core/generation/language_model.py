"""A network ready for use: token ids in, logits over the whole vocabulary out, on every rank.

Shapes: B rows, T tokens, V vocabulary.
"""

import torch

from pangu_core.config.model import ModelConfig
from pangu_core.errors import ConfigError
from pangu_core.model.cache import KVCache
from pangu_core.model.gpt import PanguModel
from pangu_core.parallel.collectives import all_gather


class LanguageModel:
    """Wraps a network; with tensor parallelism all ranks of its axis call it together."""

    def __init__(self, network: PanguModel) -> None:
        self.network = network.eval()

    @property
    def config(self) -> ModelConfig:
        """Sizes of the network."""
        return self.network.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.word_embedding.weight.device

    @torch.no_grad()
    def __call__(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Logits [B, T, V], float32 (float64 of a float64 network), of int64 ids [B, T].

        Raises:
            ConfigError: ids outside the vocabulary, or more of them than the position table has.
        """
        self._check(input_ids)
        return self._whole(self.network(input_ids.to(self.device)))

    @torch.no_grad()
    def extend(
        self,
        tokens_BT: torch.Tensor,
        positions_BT: torch.Tensor,
        cache: KVCache,
        last_B: torch.Tensor,
    ) -> torch.Tensor:
        """Read tokens into the cache; returns the logits [B, V] after token ``last_B`` of each row.

        Tokens behind ``last_B`` are padding. All tensors int64, on this model's device.
        """
        logits_B1V = self.network(tokens_BT, positions_BT=positions_BT, cache=cache, last_B=last_B)
        return self._whole(logits_B1V)[:, 0]

    def new_cache(self, batch_size: int, capacity: int) -> KVCache:
        """An empty cache for this rank's heads."""
        return KVCache(
            self.config,
            batch_size=batch_size,
            num_heads=self.config.num_heads // self.network.axis.size,
            capacity=capacity,
            device=self.device,
            dtype=self.network.compute_dtype,
        )

    def _whole(self, logits_BTVl: torch.Tensor) -> torch.Tensor:
        """All ranks' columns side by side, vocabulary padding cut off."""
        logits_BTV = all_gather(logits_BTVl, self.network.axis, dim=-1)
        wide = torch.promote_types(logits_BTV.dtype, torch.float32)
        return logits_BTV[..., : self.config.vocab_size].to(wide)

    def _check(self, input_ids: torch.Tensor) -> None:
        if input_ids.dim() != 2 or input_ids.dtype != torch.int64 or not input_ids.numel():
            raise ConfigError(
                "input_ids",
                seen=f"{input_ids.dtype} {list(input_ids.shape)}",
                rule="must be int64 of shape [batch, tokens], not empty",
                fix="pass for example torch.tensor([tokenizer.encode(text)])",
            )
        if input_ids.shape[1] > self.config.sequence_length:
            raise ConfigError(
                "input_ids",
                seen=f"{input_ids.shape[1]} tokens",
                rule=f"the model's position table has {self.config.sequence_length} rows",
                fix="pass a shorter piece",
            )
        lowest, highest = int(input_ids.min()), int(input_ids.max())
        if lowest < 0 or highest >= self.config.vocab_size:
            raise ConfigError(
                "input_ids",
                seen=f"ids from {lowest} to {highest}",
                rule=f"must be 0 to {self.config.vocab_size - 1}",
                fix="use the tokenizer that the model was trained with",
            )
