"""MindSpore's strategy file: how each tensor of a distributed run was cut.

    ParallelStrategyMap { ... repeated ParallelLayoutItem = 3 { param_name = 1; layouts = 2 } }
    ParallelLayouts { dev_matrix = 1 {dim}; tensor_map = 2 {dim}; param_split_shape = 3;
                      indices_offset = 4; field = 5; opt_weight_shard_step = 6, _size = 7 }

The ranks form a matrix of devices, the last axis changing fastest. tensor_map says for each
dimension of a tensor which axis of that matrix cuts it, counted from the right; -1: none. What
the ranks of one part then have in common, the optimizer may cut again along dimension 0: the
ranks r, r + step, r + 2 step, ... hold its pieces in that order; a size of -1 means all of them.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pangu_core.checkpoint.formats.mindspore.wire import (
    BYTES,
    Buffer,
    Field,
    WireError,
    check_kind,
    fields,
    read_numbers,
    read_text,
    signed,
)
from pangu_core.errors import CheckpointError
from pangu_core.layout import Shape, Slice

# The released ones have 0.2 MB.
MAX_FILE_BYTES: Final = 64 << 20
MAX_ITEMS: Final = 100_000
MAX_RANKS: Final = 65_536
MAX_AXES: Final = 16
_MAX_NAME_BYTES: Final = 1_024
_LAYOUT_ITEM: Final = 3


@dataclass(frozen=True)
class Cut:
    """How one tensor was dealt to the ranks."""

    devices: tuple[int, ...]  # the matrix of ranks
    tensor_map: tuple[int, ...]
    step: int = 0  # of the optimizer's cut; 0: it does not cut
    size: int = 0

    @property
    def num_ranks(self) -> int:
        """Ranks of the run."""
        return math.prod(self.devices)

    @property
    def num_pieces(self) -> int:
        """Pieces into which the optimizer cuts a part."""
        if not self.step or not self.size:
            return 1
        return self.size if self.size > 0 else self.num_ranks // math.prod(self._counts)

    def whole_shape(self, piece: Shape) -> Shape:
        """Shape of the whole tensor, from that of every rank's piece."""
        sizes = [size * count for size, count in zip(piece, self._counts, strict=True)]
        return tuple(size * self.num_pieces if d == 0 else size for d, size in enumerate(sizes))

    def part(self, rank: int, piece: Shape) -> Slice:
        """Where a rank's piece lies in the whole tensor."""
        indices = [self._index(rank, dim) for dim in range(len(piece))]
        if self.num_pieces > 1:
            indices[0] = indices[0] * self.num_pieces + rank // self.step % self.num_pieces
        firsts = [index * size for index, size in zip(indices, piece, strict=True)]
        return tuple((first, first + size) for first, size in zip(firsts, piece, strict=True))

    @property
    def _counts(self) -> tuple[int, ...]:
        """Parts along each dimension, before the optimizer's cut."""
        return tuple(1 if axis < 0 else self.devices[-1 - axis] for axis in self.tensor_map)

    def _index(self, rank: int, dim: int) -> int:
        """Which of the parts along a dimension a rank has."""
        axis = self.tensor_map[dim]
        if axis < 0:
            return 0
        stride = math.prod(self.devices[len(self.devices) - axis :])
        return rank // stride % self.devices[-1 - axis]


def read_strategy(path: Path) -> dict[str, Cut]:
    """Name of a parameter -> its cut.

    Raises:
        CheckpointError: no strategy file, a damaged one, or a cut that is not understood.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise refusal(path, "no such file", "must be there") from error
    try:
        if len(data) > MAX_FILE_BYTES:
            raise WireError(MAX_FILE_BYTES, "more than a strategy file has")
        cuts = dict(_items(data))
    except WireError as error:
        raise refusal(path, str(error), "must be a whole MindSpore strategy file") from error
    if not cuts:
        raise refusal(path, "no layout of any parameter", "must say how each one was cut")
    worlds = sorted({cut.num_ranks for cut in cuts.values()})
    if len(worlds) > 1:
        raise refusal(path, f"runs of {worlds} ranks", "must be of one run without pipeline stages")
    return cuts


def refusal(path: Path, seen: str, rule: str) -> CheckpointError:
    """The error of a strategy file that cannot be used."""
    fix = "name the run's own strategy file with --strategy"
    return CheckpointError(str(path), seen=seen, rule=rule, fix=fix)


def _items(data: bytes) -> Iterator[tuple[str, Cut]]:
    for field in fields(data, 0, len(data), limit=MAX_ITEMS):
        if field.number == _LAYOUT_ITEM:
            check_kind(field, BYTES)
            parts = {part.number: part for part in fields(data, field.start, field.stop)}
            if not parts.keys() >= {1, 2}:
                raise WireError(field.offset, "a layout without name or content")
            check_kind(parts[2], BYTES)
            yield read_text(data, parts[1], _MAX_NAME_BYTES), _cut(data, parts[2])


def _cut(data: Buffer, layout: Field) -> Cut:
    parts = {part.number: part for part in fields(data, layout.start, layout.stop)}
    for number in (3, 4):
        if number in parts and _dims(data, parts[number]):
            raise WireError(parts[number].offset, "a table cut by hand, which is not supported")
    if not parts.keys() >= {1, 2}:
        raise WireError(layout.offset, "a layout without devices or tensor map")
    cut = Cut(
        devices=_dims(data, parts[1]),
        tensor_map=_dims(data, parts[2]),
        step=_number(parts.get(6)),
        size=_number(parts.get(7)),
    )
    if not _is_sound(cut):
        raise WireError(layout.offset, str(cut))
    return cut


def _is_sound(cut: Cut) -> bool:
    if not cut.devices or min(cut.devices) < 1 or cut.num_ranks > MAX_RANKS:
        return False
    axes = [axis for axis in cut.tensor_map if axis != -1]
    if len(set(axes)) < len(axes) or any(not 0 <= axis < len(cut.devices) for axis in axes):
        return False
    has_rows = bool(cut.tensor_map) or not cut.step
    return has_rows and 0 <= cut.step <= cut.num_ranks and -1 <= cut.size <= cut.num_ranks


def _dims(data: Buffer, field: Field) -> tuple[int, ...]:
    check_kind(field, BYTES)
    dims: list[int] = []
    for part in fields(data, field.start, field.stop):
        dims += read_numbers(data, part, MAX_AXES)
        if len(dims) > MAX_AXES:
            raise WireError(field.offset, f"more than {MAX_AXES} numbers")
    return tuple(dims)


def _number(field: Field | None) -> int:
    return signed(field.value) if field is not None else 0
