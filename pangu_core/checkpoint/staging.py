"""A copy of a rank's state in host memory, so that training may change the original meanwhile.

The memory is taken once, at the first save, and used for every later one. On a machine that has no
room for it nothing is copied, and the caller writes from the original while training waits.
"""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch

from pangu_core.checkpoint.writer import Piece
from pangu_core.memory import Room, room

# Each piece begins at a multiple of it: any dtype may be viewed there, and a cache line is whole.
ALIGNMENT: Final = 64
# Memory is taken in blocks of this size, but for larger pieces and the last block: torch rounds
# pinned memory up to powers of two, which one large block might nearly double.
BLOCK_BYTES: Final = 1 << 30
# Share of the memory that must be left when all ranks of this machine have their copies.
RESERVE: Final = 0.05
LOCAL_WORLD_VARIABLE: Final = "LOCAL_WORLD_SIZE"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Staged:
    """Pieces to write; ``wait`` until their values are there."""

    pieces: Sequence[Piece]
    copied: torch.cuda.Event | None = None

    def wait(self) -> None:
        """Return when the device has finished copying."""
        if self.copied is not None:
            self.copied.synchronize()


class Staging:
    """Host memory for one copy of the state.

    Args:
        num_ranks: ranks of this machine, which all take as much; default: the launcher's word.
        find_room: tells the memory that is there.
    """

    def __init__(
        self, *, num_ranks: int | None = None, find_room: Callable[[], Room] = room
    ) -> None:
        self._num_ranks = num_ranks or int(os.environ.get(LOCAL_WORLD_VARIABLE, "1"))
        self._find_room = find_room
        self._blocks: list[torch.Tensor] = []
        self._is_refused = False

    def copy(self, pieces: Sequence[Piece]) -> Staged | None:
        """Copy the pieces; from a GPU the copies are queued behind the work that is under way.

        Every call must bring pieces of the same sizes. Returns pieces in host memory, valid until
        the next call; None if there is no room.
        """
        places, sizes = _pack([piece.tensor.nbytes for piece in pieces])
        if not self._blocks and not self._is_refused:
            self._take(sizes, pinned=any(piece.tensor.is_cuda for piece in pieces))
        if self._is_refused:
            return None
        copies = []
        for piece, place in zip(pieces, places, strict=True):
            memory = self._blocks[place.block][place.start : place.start + piece.tensor.nbytes]
            target = memory.view(piece.tensor.dtype).view(piece.tensor.shape)
            target.copy_(piece.tensor.detach(), non_blocking=True)
            copies.append(replace(piece, tensor=target))
        return Staged(copies, _mark(pieces))

    def _take(self, sizes: Sequence[int], *, pinned: bool) -> None:
        """Have memory for blocks of these sizes, or know that there is none."""
        num_bytes = sum(_rounded(size) if pinned else size for size in sizes)
        self._is_refused = not self._fits(num_bytes)
        if self._is_refused:
            return
        try:
            self._blocks = [_allocate(size, pinned=pinned) for size in sizes]
        except RuntimeError as error:  # what torch raises when memory cannot be had or pinned
            self._is_refused = True
            _warn(f"{num_bytes:,} bytes could not be taken: {str(error).splitlines()[0]}")

    def _fits(self, size: int) -> bool:
        found = self._find_room()
        reserve = int(RESERVE * found.total)
        if size * self._num_ranks + reserve <= found.available:
            return True
        _warn(
            f"{self._num_ranks} x {size:,} bytes, and {reserve:,} to be left free, "
            f"do not fit the {found.available:,} bytes of memory that are available"
        )
        return False


@dataclass(frozen=True)
class _Place:
    """Where a piece lies."""

    block: int
    start: int


def _pack(sizes: Sequence[int]) -> tuple[list[_Place], list[int]]:
    """A place for each piece, and the blocks' sizes: the first block with room, largest first."""
    places: dict[int, _Place] = {}
    blocks: list[int] = []
    for number in sorted(range(len(sizes)), key=lambda n: sizes[n], reverse=True):
        size = -(-sizes[number] // ALIGNMENT) * ALIGNMENT
        fitting = (block for block, used in enumerate(blocks) if used + size <= BLOCK_BYTES)
        block = next(fitting, len(blocks))
        if block == len(blocks):
            blocks.append(0)
        places[number] = _Place(block, blocks[block])
        blocks[block] += size
    return [places[number] for number in range(len(sizes))], blocks


def _rounded(size: int) -> int:
    """The power of two that torch takes for so many pinned bytes."""
    return 1 << max(0, size - 1).bit_length()


def _allocate(size: int, *, pinned: bool) -> torch.Tensor:
    return torch.empty(size, dtype=torch.uint8, pin_memory=pinned)


def _mark(pieces: Sequence[Piece]) -> torch.cuda.Event | None:
    """An event behind everything that is queued on the current stream; None without a GPU."""
    device = next((piece.tensor.device for piece in pieces if piece.tensor.is_cuda), None)
    if device is None:
        return None
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event


def _warn(problem: str) -> None:
    logger.warning(
        "no copy of the state for asynchronous saving: %s; training waits for each save instead. "
        "Give the pod more memory, or say train.checkpoint.asynchronous: false to silence this",
        problem,
    )
