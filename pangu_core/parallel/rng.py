"""Random numbers as functions, not state.

Every draw is made by a generator seeded from what it belongs to: seed, step, micro-batch, place
in the network, and the tensor rank where ranks hold different parts. So nothing has to be saved,
recomputation repeats the same masks, and the number of data ranks does not matter.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pangu_core.dist import ALONE, Axis
from pangu_core.parallel.collectives import SEQUENCE_DIM, own_part


@dataclass(frozen=True)
class DropoutKey:
    """What a forward pass's dropout depends on, the place in the network aside."""

    seed: int
    step: int
    micro_batch: int  # index within the global batch, so that dealing it elsewhere is no change

    def tensor(self) -> torch.Tensor:
        """The key as one number, int64 without dimensions, for a pass through the network."""
        return torch.tensor(derive_seed(self.seed, self.step, self.micro_batch))


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from named parts; equal parts give equal seeds on every machine."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(device: torch.device, *parts: int | str) -> torch.Generator:
    """A fresh generator for one purpose."""
    return torch.Generator(device).manual_seed(derive_seed(*parts))


@torch.library.custom_op("pangu::kept_elements", mutates_args=())
def kept_elements(
    shape: Sequence[int],
    probability: float,
    key: torch.Tensor,
    place: torch.Tensor,
    device: torch.device,
) -> torch.Tensor:
    """True where dropout keeps an element, drawn from a generator of its own.

    The compiler takes it as it is and sees no generator. The parts of the seed are int64 tensors
    without dimensions, on the CPU: as plain numbers they would be constants of the compiled code.
    """
    draw = generator(device, int(key), int(place))
    return torch.rand(shape, generator=draw, device=device) >= probability


@kept_elements.register_fake
def _(
    shape: Sequence[int],
    probability: float,
    key: torch.Tensor,
    place: torch.Tensor,
    device: torch.device,
) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.bool, device=device)


class Dropout(torch.nn.Module):
    """Dropout whose mask is a function of (key, place, tensor rank or shared).

    Args:
        probability: chance that an element is zeroed.
        place: name of this layer, unique in the network.
        axis: the tensor axis where its ranks hold different elements; None where all ranks
            hold parts of, or all of, the same ones and must use the same mask.
        stream: the axis over which these elements are spread by sequence. The mask is drawn
            whole and cut, so that spreading changes no element's fate.
    """

    def __init__(
        self,
        probability: float,
        place: str,
        axis: Axis | None = None,
        *,
        stream: Axis = ALONE,
    ) -> None:
        super().__init__()
        self.probability = probability
        self.stream = stream
        self.place = torch.tensor(derive_seed(place, axis.rank if axis is not None else -1))

    def forward(self, x: torch.Tensor, key: torch.Tensor | None) -> torch.Tensor:
        """Drop and rescale [B, T/stream, ...]; the identity without a key or a probability."""
        if key is None or self.probability == 0.0:
            return x
        shape = list(x.shape)
        if self.stream.size > 1:
            shape[SEQUENCE_DIM] *= self.stream.size
        kept = kept_elements(shape, self.probability, key, self.place, x.device)
        return x * own_part(kept, self.stream).to(x.dtype) / (1.0 - self.probability)
