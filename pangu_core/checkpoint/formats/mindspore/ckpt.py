"""One MindSpore ``.ckpt`` file: an index of its tensors, the data of one, and writing.

    Checkpoint { repeated Value value = 1 }
    Value { string tag = 1; TensorProto tensor = 2 or MapTensorProto maptensor = 3 }
    TensorProto { repeated int64 dims = 1; string tensor_type = 2; bytes tensor_content = 3 }

The file is one such message after another. A tensor over 512 MiB is cut into values that follow
each other, each with the same tag and the whole tensor's dims. A scalar has dims [0]. Later
MindSpore versions may end the file with a CRC-32 of all that stands before it.
"""

import math
import mmap
import sys
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import torch

from pangu_core.checkpoint.formats.mindspore.wire import (
    BYTES,
    Buffer,
    Field,
    WireError,
    bytes_field,
    bytes_head,
    check_kind,
    fields,
    read_numbers,
    read_text,
    read_varint,
    varint_field,
)
from pangu_core.checkpoint.tensor_file import BLOCK_BYTES, DTYPES, DTypeName, Entry, raw_bytes
from pangu_core.errors import CheckpointError
from pangu_core.layout import Shape

# Where MindSpore cuts a large tensor.
SLICE_BYTES: Final = 512 << 20
# The largest known file, 13B with its moments, has 1,935 tensors.
MAX_VALUES: Final = 100_000
MAX_NAME_BYTES: Final = 1_024
MAX_DIMS: Final = 8
_FIRST_KEY: Final = 1 << 3 | BYTES
_CHECKSUM_MARK: Final = b"crc_num"
_CHECKSUM_BYTES: Final = 10
# MindSpore's word -> ours; what else it stores is never a weight.
_FLOATS: Final[dict[str, DTypeName]] = {
    "Float16": "fp16",
    "BFloat16": "bf16",
    "Float32": "fp32",
    "Float64": "fp64",
}
_WORDS: Final = {ours: word for word, ours in _FLOATS.items()}
_OTHER_SIZES: Final = {
    "Bool": 1,
    "Int8": 1,
    "Uint8": 1,
    "Int16": 2,
    "Uint16": 2,
    "Int32": 4,
    "Uint32": 4,
    "Int64": 8,
    "Uint64": 8,
}


class Extent(NamedTuple):
    """A run of bytes in the file."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies in a file, and what it is."""

    shape: Shape
    dtype: str  # one of our names for floating-point numbers, else MindSpore's word
    extents: tuple[Extent, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes that are there."""
        return sum(extent.length for extent in self.extents)


def looks_like_ckpt(path: Path) -> bool:
    """Whether a file begins with a named value."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        data = file.read(2 * MAX_NAME_BYTES)
    try:
        value, start = read_varint(data, 0, len(data))
        _, start = read_varint(data, start, len(data))
        tag, start = read_varint(data, start, len(data))
        length, start = read_varint(data, start, len(data))
    except WireError:
        return False
    name = data[start : start + length]
    return value == tag == _FIRST_KEY and 0 < len(name) == length and name.isascii()


def index(path: Path) -> dict[str, Place]:
    """Every tensor of a file by its name; the data is not read.

    Map tensors (embedding caches of recommenders) are left out.

    Raises:
        CheckpointError: the file is damaged; the message has the offset.
    """
    try:
        with path.open("rb") as file, _mapped(file) as data:
            return _index(data, _checked_end(data))
    except FileNotFoundError as error:
        raise damaged(path, "no such file") from error
    except WireError as error:
        raise damaged(path, str(error)) from error


def read(path: Path, place: Place) -> torch.Tensor:
    """The data of one tensor; its dtype must be one of ours.

    Raises:
        CheckpointError: the file is shorter than its index says.
    """
    data = torch.empty(place.num_bytes, dtype=torch.uint8)
    view, done = data.numpy(), 0
    with path.open("rb", buffering=0) as file:
        for offset, length in place.extents:
            file.seek(offset)
            while length:
                count = file.readinto(view[done : done + length].data)
                if not count:
                    raise damaged(path, f"offset {file.tell()}: the end")
                done, length = done + count, length - count
    dtypes: Mapping[str, torch.dtype] = {name: row.torch for name, row in DTYPES.items()}
    return data.view(dtypes[place.dtype]).reshape(place.shape)


def write_tensor(file: BinaryIO, name: str, tensor: torch.Tensor, dtype: DTypeName) -> None:
    """Append a tensor, in slices where it is large.

    Raises:
        OSError: the volume refused.
    """
    data = raw_bytes(tensor.contiguous())
    shape = tuple(tensor.shape)
    for start in range(0, max(1, len(data)), SLICE_BYTES):
        part = data[start : start + SLICE_BYTES]
        file.write(value_head(name, shape, _WORDS[dtype], len(part)))
        for at in range(0, len(part), BLOCK_BYTES):
            file.write(part[at : at + BLOCK_BYTES].data)


def value_head(name: str, shape: Shape, word: str, num_bytes: int) -> bytes:
    """All of a value but the tensor's bytes, which end it."""
    dims = b"".join(varint_field(1, size) for size in shape or (0,))
    tensor = dims + bytes_field(2, word.encode()) + bytes_head(3, num_bytes)
    tag = bytes_field(1, name.encode())
    value = tag + bytes_head(2, len(tensor) + num_bytes) + tensor
    return bytes_head(1, len(value) + num_bytes) + value


def damaged(path: Path, seen: str) -> CheckpointError:
    """The error of a file that cannot be read to its end."""
    rule = "must be a whole MindSpore checkpoint file"
    return CheckpointError(str(path), seen=seen, rule=rule, fix="copy the file again")


def _mapped(file: BinaryIO) -> mmap.mmap:
    try:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError as error:  # an empty file cannot be mapped
        raise WireError(0, "an empty file") from error


def _checked_end(data: mmap.mmap) -> int:
    """Where the values end; a checksum behind them is verified."""
    end = len(data) - len(_CHECKSUM_MARK) - _CHECKSUM_BYTES
    if end < 0 or data[end : end + len(_CHECKSUM_MARK)] != _CHECKSUM_MARK:
        return len(data)
    checksum = 0
    for start in range(0, end, BLOCK_BYTES):
        checksum = zlib.crc32(data[start : min(end, start + BLOCK_BYTES)], checksum)
    if checksum != int.from_bytes(data[-_CHECKSUM_BYTES:], "big"):
        raise WireError(end, f"a checksum that is not the content's ({checksum})")
    return end


def _index(data: mmap.mmap, end: int) -> dict[str, Place]:
    places: dict[str, Place] = {}
    last = None
    for name, place in _values(data, end):
        offset = place.extents[0].offset
        if name not in places:
            places[name] = place
        elif name == last and _is_cut(places[name]) and _is_alike(places[name], place):
            places[name] = replace(place, extents=places[name].extents + place.extents)
        else:
            raise WireError(offset, f"{name} again")
        last = name
    for name, place in places.items():
        _check_size(name, place)
    return {name: _as_scalar(place) for name, place in places.items()}


def _values(data: Buffer, end: int) -> Iterator[tuple[str, Place]]:
    for field in fields(data, 0, end, limit=MAX_VALUES):
        if field.number != 1:
            raise WireError(field.offset, f"a field of number {field.number}")
        check_kind(field, BYTES)
        parts = {part.number: part for part in fields(data, field.start, field.stop)}
        if 1 not in parts or not parts.keys() & {2, 3}:
            raise WireError(field.offset, "a value without name or tensor")
        name = read_text(data, parts[1], MAX_NAME_BYTES)
        if 2 in parts:
            check_kind(parts[2], BYTES)
            # Shards name the same tensors hundreds of times.
            yield sys.intern(name), _place(data, parts[2])


def _place(data: Buffer, tensor: Field) -> Place:
    dims: list[int] = []
    word, content = "", Extent(tensor.start, 0)
    for field in fields(data, tensor.start, tensor.stop):
        if field.number == 1:
            dims += read_numbers(data, field, MAX_DIMS)
            if len(dims) > MAX_DIMS or dims[-1:] < [0]:
                raise WireError(field.offset, f"dims {dims}")
        elif field.number == 2:
            word = read_text(data, field, MAX_NAME_BYTES)
        elif field.number == 3:
            check_kind(field, BYTES)
            content = Extent(field.start, field.stop - field.start)
    return Place(tuple(dims), _FLOATS.get(word, word), (content,))


def _is_cut(place: Place) -> bool:
    """Whether more of the tensor must follow."""
    size = _size(place)
    return size is None or place.num_bytes < size


def _is_alike(first: Place, second: Place) -> bool:
    return (first.shape, first.dtype) == (second.shape, second.dtype)


def _check_size(name: str, place: Place) -> None:
    size = _size(place)
    if size is not None and place.num_bytes != size:
        seen = f"{name} of shape {place.shape} has {place.num_bytes} bytes instead of {size}"
        raise WireError(place.extents[0].offset, seen)


def _size(place: Place) -> int | None:
    """Bytes that a tensor must have; None for a dtype that is not known."""
    shape = () if place.shape == (0,) and place.num_bytes else place.shape
    for name in _WORDS:
        if place.dtype == name:
            return Entry("", shape, name).num_bytes
    size = _OTHER_SIZES.get(place.dtype)
    return None if size is None else math.prod(shape) * size


def _as_scalar(place: Place) -> Place:
    return replace(place, shape=()) if place.shape == (0,) and place.num_bytes else place
