"""Random numbers as functions, not state.

Every draw is made by a generator seeded from what it belongs to: seed, step, micro-batch, place
in the network, and the tensor rank where ranks hold different parts. So nothing has to be saved,
recomputation repeats the same masks, and the number of data ranks does not matter.
"""

import hashlib
from dataclasses import dataclass

import torch

from pangu_core.dist import Axis


@dataclass(frozen=True)
class DropoutKey:
    """What a forward pass's dropout depends on, the place in the network aside."""

    seed: int
    step: int
    micro_batch: int  # index within the global batch, so that dealing it elsewhere is no change


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from named parts; equal parts give equal seeds on every machine."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(device: torch.device, *parts: int | str) -> torch.Generator:
    """A fresh generator for one purpose."""
    return torch.Generator(device).manual_seed(derive_seed(*parts))


class Dropout(torch.nn.Module):
    """Dropout whose mask is a function of (key, place, tensor rank or shared).

    Args:
        probability: chance that an element is zeroed.
        place: name of this layer, unique in the network.
        axis: the tensor axis where its ranks hold different elements; None where all ranks
            hold the same ones and must draw the same mask.
    """

    def __init__(self, probability: float, place: str, axis: Axis | None = None) -> None:
        super().__init__()
        self.probability = probability
        self.place = place
        self.rank = axis.rank if axis is not None else -1

    def forward(self, x: torch.Tensor, key: DropoutKey | None) -> torch.Tensor:
        """Drop and rescale; the identity where ``key`` is None or the probability 0."""
        if key is None or self.probability == 0.0:
            return x
        draw = generator(x.device, key.seed, key.step, key.micro_batch, self.place, self.rank)
        kept = torch.rand(x.shape, generator=draw, device=x.device) >= self.probability
        return x * kept.to(x.dtype) / (1.0 - self.probability)
