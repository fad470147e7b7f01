"""The word table, its rows spread over the tensor axis, also as output head; position tables."""

import torch
from torch import nn
from torch.nn import functional as F

from pangu_core.dist import ALONE, Axis
from pangu_core.layout import padded_rows, shard_bounds
from pangu_core.parallel.collectives import enter, leave, own_part


class VocabParallelEmbedding(nn.Module):
    """Rows [start, stop) of the word table, padded with zeros to the same count on every rank.

    Padding rows are never looked up and never win: the loss leaves their logits out, and so
    their gradient is zero and they stay zero.
    """

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int,
        axis: Axis,
        dtype: torch.dtype,
        *,
        stream: Axis = ALONE,
    ) -> None:
        super().__init__()
        self.axis = axis
        self.stream = stream
        self.vocab_size = vocab_size
        self.start, self.stop = shard_bounds(vocab_size, axis.rank, axis.size)
        rows = padded_rows(vocab_size, axis.size)
        self.weight = nn.Parameter(torch.empty(rows, hidden_size, dtype=dtype))

    @property
    def num_rows(self) -> int:
        """Rows of this rank that are no padding."""
        return self.stop - self.start

    def forward(self, tokens: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Look up int64 ids [B, T]; returns this rank's part of the stream, [B, T/stream, C]."""
        local = tokens - self.start
        elsewhere = (local < 0) | (local >= self.num_rows)
        rows = F.embedding(local.masked_fill(elsewhere, 0), self.weight).to(dtype)
        return leave(rows.masked_fill(elsewhere[..., None], 0.0), self.axis, self.stream)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map this rank's part of the stream to its logits [B, T, rows], padding included."""
        hidden = enter(hidden, self.axis, self.stream)
        return F.linear(hidden, self.weight.to(hidden.dtype))


class PositionTable(nn.Module):
    """A learned table, looked up by position; every tensor rank holds all of it."""

    def __init__(
        self, rows: int, hidden_size: int, dtype: torch.dtype, *, stream: Axis = ALONE
    ) -> None:
        super().__init__()
        self.stream = stream
        self.weight = nn.Parameter(torch.empty(rows, hidden_size, dtype=dtype))

    def forward(self, positions: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Rows at int64 positions [B, T], of this rank's part: [B, T/stream, C] in ``dtype``."""
        return F.embedding(own_part(positions, self.stream), self.weight).to(dtype)
