"""Reads a file of ``torch.save``, of the old kind or a zip, through a memory map.

The old kind (torch before 1.6, and what the port's own container writes) is a row of pickles with
the numbers behind them; the zip has a record for each. Nothing is trusted: pickles are read as
data, and every place is checked against the size of the file.
"""

import math
import mmap
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
import torch

from pangu_core.checkpoint.tensor_file import DTYPES, DTypeName, dtype_name
from pangu_core.checkpoint.torch_files import unpickling
from pangu_core.checkpoint.torch_files.values import StorageRef, TensorRef, refusal
from pangu_core.errors import CheckpointError

Array = np.ndarray[Any, Any]
MAGIC: Final = 0x1950A86A20F9469CFC6C
PROTOCOL: Final = 1001
_ZIP_START: Final = b"PK\x03\x04"
_LOCAL_HEADER: Final = struct.Struct("<4s22xHH")  # signature, lengths of name and extra field


class TorchFile:
    """An opened file; ``content`` is what was saved, with ``TensorRef`` for each tensor."""

    def __init__(self, path: Path) -> None:
        """Map the file and read everything but the numbers.

        Raises:
            CheckpointError: it is missing, damaged, or holds more than data.
        """
        self.path = path
        self._places: dict[str, tuple[int, int]] = {}  # storage -> first byte, bytes
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError as error:
            raise CheckpointError(
                str(path), seen="no such file", rule="must be there", fix="copy all of the folder"
            ) from error
        except ValueError as error:  # an empty file cannot be mapped
            raise refusal(path, 0, "an empty file") from error
        is_zip = self._map[: len(_ZIP_START)] == _ZIP_START
        self.content: Any = self._read_zip() if is_zip else self._read_old()

    def dtype(self, ref: TensorRef) -> DTypeName:
        """The dtype of a tensor.

        Raises:
            CheckpointError: it is none that weights have.
        """
        return dtype_name(ref.storage.dtype)

    def array(self, ref: TensorRef) -> Array:
        """A read-only view of a tensor's numbers; bf16 comes as 2-byte integers.

        Raises:
            CheckpointError: the tensor is empty, larger than its storage, or reaches beyond it.
        """
        start, num_bytes = self._place(ref.storage)
        count = math.prod(ref.shape)
        steps = zip(ref.shape, ref.stride, strict=True)
        last = ref.offset + sum((size - 1) * step for size, step in steps if size)
        if not count or last >= ref.storage.size or count > ref.storage.size:
            seen = f"shape {ref.shape}, stride {ref.stride} in {ref.storage.size} elements"
            raise refusal(self.path, start, seen)
        raw = np.dtype(DTYPES[self.dtype(ref)].raw)
        flat = np.frombuffer(self._map, raw, num_bytes // raw.itemsize, start)[ref.offset :]
        # The step of a single row is never taken and may be anything.
        strides = tuple(
            (step if size > 1 else 0) * raw.itemsize
            for size, step in zip(ref.shape, ref.stride, strict=True)
        )
        return np.lib.stride_tricks.as_strided(flat, ref.shape, strides, writeable=False)

    def _place(self, storage: StorageRef) -> tuple[int, int]:
        """First byte and length of a storage's numbers."""
        start, num_bytes = self._places.get(storage.key, (0, -1))
        needed = storage.size * storage.dtype.itemsize
        if num_bytes < needed:
            seen = f"{max(num_bytes, 0)} bytes of the {needed} of storage {storage.key!r}"
            raise refusal(self.path, start, seen)
        return start, needed

    def _read_zip(self) -> Any:
        try:
            with zipfile.ZipFile(self.path) as archive:
                records = {entry.filename: entry for entry in archive.infolist()}
        # What the library raises for damaged directories.
        except (
            zipfile.BadZipFile,
            NotImplementedError,
            ValueError,
            struct.error,
            OSError,
        ) as error:
            raise refusal(self.path, 0, f"a damaged zip: {error}") from error
        names = [name for name in records if PurePosixPath(name).name == "data.pkl"]
        if len(names) != 1:
            raise refusal(self.path, 0, f"a zip with {len(names)} records data.pkl")
        root = names[0].removesuffix("data.pkl")
        for name, entry in records.items():
            folder, _, key = name.removeprefix(root).rpartition("/")
            if folder == "data":
                self._places[key] = self._record(entry)
        start, num_bytes = self._record(records[names[0]])
        return self._pickle(start, start + num_bytes)[0]

    def _record(self, entry: zipfile.ZipInfo) -> tuple[int, int]:
        """First byte and length of a zip record's data."""
        offset = entry.header_offset
        header = self._map[offset : offset + _LOCAL_HEADER.size] if offset >= 0 else b""
        if len(header) < _LOCAL_HEADER.size or entry.compress_type != zipfile.ZIP_STORED:
            raise refusal(self.path, max(offset, 0), f"record {entry.filename!r} is damaged")
        signature, name, extra = _LOCAL_HEADER.unpack(header)
        start = offset + _LOCAL_HEADER.size + name + extra
        if signature != _ZIP_START or start + entry.file_size > len(self._map):
            raise refusal(self.path, offset, f"record {entry.filename!r} is cut short")
        return start, entry.file_size

    def _read_old(self) -> Any:
        magic, start = self._pickle(0)
        protocol, start = self._pickle(start)
        if (magic, protocol) != (MAGIC, PROTOCOL):
            raise refusal(self.path, 0, "no file of torch.save")
        _, start = self._pickle(start)  # sizes of the writer's integers
        content, start = self._pickle(start)
        keys, start = self._pickle(start)
        sizes = {ref.key: ref.dtype.itemsize for ref in _storages(content)}
        for key in keys if isinstance(keys, list) else ():
            if not isinstance(key, str) or key not in sizes:
                raise refusal(self.path, start, "a storage that no tensor uses")
            num_bytes = int.from_bytes(self._map[start : start + 8], "little") * sizes[key]
            if start + 8 + num_bytes > len(self._map):
                raise refusal(self.path, start, f"storage {key!r} ends behind the file")
            self._places[key] = (start + 8, num_bytes)
            start += 8 + num_bytes
        return content

    def _pickle(self, start: int, stop: int | None = None) -> tuple[Any, int]:
        """The pickle at an offset, and the offset behind it."""
        limit = start + unpickling.MAX_BYTES
        data = self._map[start : limit if stop is None else min(stop, limit)]
        value, length = unpickling.load(data, self.path, start)
        return value, start + length


def tensor_of(array: Array, dtype: DTypeName) -> torch.Tensor:
    """A tensor over a writable array of ``TorchFile.array``'s kind."""
    return torch.from_numpy(array).view(DTYPES[dtype].torch)


def _storages(content: Any) -> Iterator[StorageRef]:
    """Every storage that some tensor in the content uses; values that are shared count once."""
    todo, seen = [content], set()
    while todo:
        value = todo.pop()
        if isinstance(value, TensorRef):
            yield value.storage
        elif isinstance(value, StorageRef):
            yield value
        elif id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, dict):
                todo.extend(value.values())
            elif isinstance(value, list | tuple):
                todo.extend(value)
            elif hasattr(value, "state"):
                todo.append(value.state)
