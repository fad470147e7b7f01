"""The word table, its rows spread over the tensor axis; it is the output head as well."""

import torch
from torch import nn
from torch.nn import functional as F

from pangu_core.dist import Axis
from pangu_core.layout import padded_rows, shard_bounds
from pangu_core.parallel.collectives import copy_to, reduce_from


class VocabParallelEmbedding(nn.Module):
    """Rows [start, stop) of the word table, padded with zeros to the same count on every rank.

    Padding rows are never looked up and never win: the loss leaves their logits out, and so
    their gradient is zero and they stay zero.
    """

    def __init__(self, vocab_size: int, hidden_size: int, axis: Axis, dtype: torch.dtype) -> None:
        super().__init__()
        self.axis = axis
        self.vocab_size = vocab_size
        self.start, self.stop = shard_bounds(vocab_size, axis.rank, axis.size)
        rows = padded_rows(vocab_size, axis.size)
        self.weight = nn.Parameter(torch.empty(rows, hidden_size, dtype=dtype))

    @property
    def num_rows(self) -> int:
        """Rows of this rank that are no padding."""
        return self.stop - self.start

    def forward(self, tokens: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Look up int64 ids [B, T]; returns [B, T, C] in ``dtype``, the same on every rank."""
        local = tokens - self.start
        elsewhere = (local < 0) | (local >= self.num_rows)
        rows = F.embedding(local.masked_fill(elsewhere, 0), self.weight).to(dtype)
        return reduce_from(rows.masked_fill(elsewhere[..., None], 0.0), self.axis)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map [..., C] to this rank's logits [..., rows], padding columns included."""
        return F.linear(copy_to(hidden, self.axis), self.weight.to(hidden.dtype))
