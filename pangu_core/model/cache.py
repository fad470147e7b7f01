"""Keys and values of earlier tokens, for generation: one entry per layer, the query layer last.

Rows of a batch may have different lengths without any padding on the left: every token is
stored at its own position, and a query sees the keys at positions up to its own. What padding on
the right writes is overwritten before it can be seen.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from pangu_core.config.model import ModelConfig


@dataclass(frozen=True)
class CachePlace:
    """Where one forward pass reads and writes: built once, used by every layer."""

    rows_B1: torch.Tensor
    positions_BT: torch.Tensor
    visible: int  # keys [0, visible) may be seen by some query
    mask_B1TS: torch.Tensor


class KVCache:
    """Buffers [L, B, N/tp, S, H] for keys and for values.

    Args:
        config: sizes of the model.
        batch_size: rows.
        num_heads: heads of this rank.
        capacity: positions; at most the model's sequence length.
        device: where the buffers live.
        dtype: their element type.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        batch_size: int,
        num_heads: int,
        capacity: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        assert capacity <= config.sequence_length
        shape = (config.num_layers, batch_size, num_heads, capacity, config.head_size)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)

    def place(self, positions_BT: torch.Tensor) -> CachePlace:
        """Where tokens at these positions go, and which keys they may see."""
        visible = int(positions_BT.max()) + 1
        keys_S = torch.arange(visible, device=positions_BT.device)
        rows = torch.arange(len(positions_BT), device=positions_BT.device)[:, None]
        mask = keys_S <= positions_BT[:, None, :, None]
        return CachePlace(rows, positions_BT, visible, mask)

    def update(
        self, layer: int, place: CachePlace, key_BNTH: torch.Tensor, value_BNTH: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the new keys and values; return all visible ones, [B, N/tp, visible, H]."""
        for buffer, new in ((self.keys, key_BNTH), (self.values, value_BNTH)):
            buffer[layer].transpose(1, 2)[place.rows_B1, place.positions_BT] = new.transpose(1, 2)
        keys, values = self.keys[layer], self.values[layer]
        return keys[:, :, : place.visible], values[:, :, : place.visible]

    def keep(self, rows_B: torch.Tensor) -> None:
        """Go on with these rows only, int64 indices in rising order."""
        self.keys = self.keys[:, rows_B]
        self.values = self.values[:, rows_B]

    def join(self, other: "KVCache") -> None:
        """Take the rows of another cache behind its own; the larger capacity holds for all."""
        capacity = max(self.keys.shape[3], other.keys.shape[3])

        def side_by_side(*parts: torch.Tensor) -> torch.Tensor:
            grown = [F.pad(part, (0, 0, 0, capacity - part.shape[3])) for part in parts]
            return torch.cat(grown, dim=1)

        keys = side_by_side(self.keys, other.keys)
        self.values = side_by_side(self.values, other.values)
        self.keys = keys
