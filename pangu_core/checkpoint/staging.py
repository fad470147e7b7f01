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
        self._buffer: torch.Tensor | None = None
        self._is_refused = False

    def copy(self, pieces: Sequence[Piece]) -> Staged | None:
        """Copy the pieces; from a GPU the copies are queued behind the work that is under way.

        Returns pieces in host memory, valid until the next call; None if there is no room.
        """
        places = list(_places(pieces))
        size = places[-1].stop if places else 0
        if not self._take(size, pieces) or self._buffer is None:
            return None
        copies = []
        for piece, place in zip(pieces, places, strict=True):
            target = self._buffer[place].view(piece.tensor.dtype).view(piece.tensor.shape)
            target.copy_(piece.tensor.detach(), non_blocking=True)
            copies.append(replace(piece, tensor=target))
        return Staged(copies, _mark(pieces))

    def _take(self, size: int, pieces: Sequence[Piece]) -> bool:
        """Have memory for so many bytes; whether there is."""
        if self._buffer is not None and self._buffer.numel() >= size:
            return True
        if not self._is_refused:
            self._buffer = None
            self._is_refused = not self._fits(size)
        if not self._is_refused:
            try:
                self._buffer = _allocate(size, pinned=any(p.tensor.is_cuda for p in pieces))
            except RuntimeError as error:  # what torch raises when memory cannot be had or pinned
                self._is_refused = True
                _warn(f"{size:,} bytes could not be taken: {str(error).splitlines()[0]}")
        return not self._is_refused

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


def _places(pieces: Sequence[Piece]) -> list[slice]:
    """Where each piece lies in the buffer."""
    places, start = [], 0
    for piece in pieces:
        stop = start + piece.tensor.numel() * piece.tensor.element_size()
        places.append(slice(start, stop))
        start = -(-stop // ALIGNMENT) * ALIGNMENT
    return places


def _allocate(size: int, *, pinned: bool) -> torch.Tensor:
    """Host memory, locked for a GPU's copies.

    It is registered by hand: torch's own pinned memory comes in powers of two, up to twice as
    much as is needed.
    """
    buffer = torch.empty(size, dtype=torch.uint8)
    if pinned:
        code = torch.cuda.cudart().cudaHostRegister(buffer.data_ptr(), size, 0)
        torch.cuda.check_error(int(code))
    return buffer


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
