"""Tensors in safetensors files: written one after another, read through a memory map.

The library's ``save_file`` wants all tensors at once; ``TensorWriter`` needs only their shapes up
front and then holds one tensor at a time. ``TensorFile`` trusts nothing that the header says.
"""

import hashlib
import json
import math
import mmap
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

import numpy as np
import torch

from pangu_core.errors import CheckpointError
from pangu_core.layout import Shape

DTypeName = Literal["fp32", "bf16", "fp16", "fp64", "int64"]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Tally = Callable[[int], None]  # is told of bytes as they are written
# Hashed, copied and written at a time: small enough to stay in a cache between the two.
BLOCK_BYTES: Final = 1 << 20
# Bytes between two waits for the disk. A page cache of terabytes would take everything at once and
# then be silent for minutes.
SYNC_BYTES: Final = 1 << 30
# safetensors' own limit on the header.
MAX_HEADER_BYTES: Final = 100_000_000


@dataclass(frozen=True)
class _DType:
    torch: torch.dtype
    code: str  # in the file
    raw: str  # numpy type of the same width; numpy knows no bf16


DTYPES: Final[dict[DTypeName, _DType]] = {
    "fp32": _DType(torch.float32, "F32", "<f4"),
    "bf16": _DType(torch.bfloat16, "BF16", "<i2"),
    "fp16": _DType(torch.float16, "F16", "<f2"),
    "fp64": _DType(torch.float64, "F64", "<f8"),
    "int64": _DType(torch.int64, "I64", "<i8"),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a file."""

    name: str
    shape: Shape
    dtype: DTypeName

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensor's data."""
        return math.prod(self.shape) * DTYPES[self.dtype].torch.itemsize


def dtype_name(dtype: torch.dtype) -> DTypeName:
    """Our name of a torch dtype.

    Raises:
        CheckpointError: checkpoints do not hold this dtype.
    """
    for name, row in DTYPES.items():
        if row.torch == dtype:
            return name
    raise CheckpointError(
        "dtype", seen=str(dtype), rule=f"must be one of {', '.join(DTYPES)}", fix="cast the tensor"
    )


def untold(num_bytes: int) -> None:
    """The tally that nobody keeps."""


class TensorWriter:
    """Writes one safetensors file; ``entries`` fix the names, shapes and order of its tensors."""

    def __init__(
        self,
        path: Path,
        entries: Sequence[Entry],
        metadata: Mapping[str, str],
        tally: Tally = untold,
    ) -> None:
        self._file = path.open("xb")
        self._tally = tally
        self._unsynced = 0
        self._entries = iter(entries)
        self._file.write(_header(entries, metadata))

    def write(self, name: str, tensor: torch.Tensor) -> str:
        """Append the next tensor; returns the SHA-256 of its data.

        A tensor on a GPU is copied to the host here, so only one copy exists at a time.
        """
        entry = next(self._entries)
        assert (name, tuple(tensor.shape)) == (entry.name, entry.shape), (name, entry)
        assert tensor.dtype == DTYPES[entry.dtype].torch, (name, tensor.dtype)
        data = raw_bytes(tensor.detach().cpu().contiguous())
        digest = hashlib.sha256()
        for block in blocks(data):
            digest.update(block.data)
            self._file.write(block.data)
            self._tell(len(block))
        return digest.hexdigest()

    def _tell(self, num_bytes: int) -> None:
        """Count bytes; so many of them at a time go to the disk, or the last fsync is silent long."""
        self._unsynced += num_bytes
        if self._unsynced >= SYNC_BYTES:
            self._file.flush()
            os.fdatasync(self._file.fileno())
            self._unsynced = 0
        self._tally(num_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._file:  # closes it, whatever happens
            if error is None:
                assert next(self._entries, None) is None, "a promised tensor was not written"
                self._file.flush()
                os.fsync(self._file.fileno())


class TensorFile:
    """A safetensors file, memory-mapped: nothing is read before it is asked for."""

    def __init__(self, path: Path, skip: Callable[[str], bool] = lambda name: False) -> None:
        """Map the file and check its header, but for the tensors to skip, of whatever dtype.

        Raises:
            CheckpointError: the file is missing, cut short, or no safetensors file.
        """
        self.path = path
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (FileNotFoundError, IsADirectoryError) as error:
            raise damaged(path, "no such file", "must be there") from error
        except ValueError as error:  # an empty file cannot be mapped
            raise damaged(path, "an empty file", "must hold tensors") from error
        self._places = _parse_header(path, self._map, skip)

    def entry(self, name: str) -> Entry:
        """What the header says of a tensor.

        Raises:
            CheckpointError: the file has no such tensor.
        """
        return self._place(name)[0]

    def names(self) -> Iterator[str]:
        """Names of all tensors, in file order."""
        return iter(self._places)

    def raw(self, name: str) -> Bytes:
        """Read-only bytes of a tensor; pages come from the disk when they are touched."""
        entry, start = self._place(name)
        return np.frombuffer(self._map, np.uint8, entry.num_bytes, start)

    def _place(self, name: str) -> tuple[Entry, int]:
        if name not in self._places:
            raise damaged(self.path, f"no tensor {name}", "must hold what the manifest lists")
        return self._places[name]


def raw_bytes(tensor: torch.Tensor) -> Bytes:
    """The bytes of a contiguous CPU tensor, shared with it."""
    flat: Bytes = tensor.reshape(-1).view(torch.uint8).numpy()
    return flat


def blocks(data: Bytes) -> Iterator[Bytes]:
    """Pieces of at most BLOCK_BYTES, in order."""
    for start in range(0, len(data), BLOCK_BYTES):
        yield data[start : start + BLOCK_BYTES]


def damaged(path: Path, seen: str, rule: str) -> CheckpointError:
    """The error of a file that cannot be trusted."""
    return CheckpointError(
        str(path), seen=seen, rule=rule, fix="use the checkpoint before, or copy this one again"
    )


def _header(entries: Sequence[Entry], metadata: Mapping[str, str]) -> bytes:
    table: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    offset = 0
    for entry in entries:
        assert entry.name not in table, entry.name
        stop = offset + entry.num_bytes
        table[entry.name] = {
            "dtype": DTYPES[entry.dtype].code,
            "shape": list(entry.shape),
            "data_offsets": [offset, stop],
        }
        offset = stop
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of 8
    return len(text).to_bytes(8, "little") + text


def _parse_header(
    path: Path, data: mmap.mmap, skip: Callable[[str], bool]
) -> dict[str, tuple[Entry, int]]:
    """Name -> (entry, first byte of its data in the file)."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(len(data) - 8, MAX_HEADER_BYTES):
        raise damaged(
            path, f"a header of {length} bytes at offset 0", f"must fit {len(data)} bytes"
        )
    try:
        table = json.loads(data[8 : 8 + length])
    except ValueError as error:
        raise damaged(path, f"offset 8: {error}", "must begin with a JSON header") from error
    if not isinstance(table, dict):
        raise damaged(path, f"offset 8: {type(table).__name__}", "must be a JSON object")
    table.pop("__metadata__", None)
    places = {}
    for name, row in table.items():
        if skip(name):
            continue
        entry, offset = _parse_entry(path, name, row)
        places[name] = (entry, 8 + length + offset)
    end = max((start + entry.num_bytes for entry, start in places.values()), default=0)
    if end > len(data):
        seen = f"file has {len(data):,} bytes, the header says {end:,}: truncated"
        raise damaged(path, seen, "must hold all tensors of its header")
    return places


def _parse_entry(path: Path, name: str, row: Any) -> tuple[Entry, int]:
    codes = {dtype.code: key for key, dtype in DTYPES.items()}
    try:
        start, stop = row["data_offsets"]
        shape = tuple(row["shape"])
        entry = Entry(name, shape, codes[row["dtype"]])
        sound = all(type(n) is int and n >= 0 for n in (start, stop, *shape))
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, f"{name}: {row}", "must have dtype, shape, data_offsets") from error
    if not sound or stop - start != entry.num_bytes:
        raise damaged(path, f"{name}: {row}", "must have a shape that fits its data_offsets")
    return entry, start
