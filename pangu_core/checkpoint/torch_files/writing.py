"""Writes a file of ``torch.save``, one tensor after another.

``torch.save`` wants all tensors at once. The old kind of file is written, which every version of
torch reads, also the 1.5 of the port's own container (it refuses today's zip).
"""

import hashlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import torch

from pangu_core.checkpoint.tensor_file import BLOCK_BYTES, blocks, raw_bytes
from pangu_core.checkpoint.torch_files import pickling
from pangu_core.checkpoint.torch_files.reading import MAGIC, PROTOCOL
from pangu_core.checkpoint.torch_files.values import StorageRef, TensorRef
from pangu_core.layout import Shape

_SYSTEM: Final = {
    "protocol_version": PROTOCOL,
    "little_endian": True,
    "type_sizes": {"short": 2, "int": 4, "long": 4},
}


def promise(key: str, shape: Shape, dtype: torch.dtype) -> TensorRef:
    """A tensor to be written later, with a storage of its own."""
    sizes = [math.prod(shape[dim + 1 :]) for dim in range(len(shape))]
    return TensorRef(StorageRef(key, dtype, math.prod(shape)), 0, shape, tuple(sizes))


class TorchWriter:
    """Writes one file; ``tensors`` says in which order those of the content will come."""

    def __init__(self, path: Path, content: Any, tensors: Sequence[TensorRef]) -> None:
        self._file = path.open("xb")
        self._tensors = iter(tensors)
        self._digest = hashlib.sha256()
        keys = [ref.storage.key for ref in tensors]
        for value in (MAGIC, PROTOCOL, _SYSTEM, content, keys):
            self._put(pickling.dump(value))

    def write(self, tensor: torch.Tensor) -> None:
        """Append the next tensor; rows that it lacks are written as zeros."""
        ref = next(self._tensors)
        shape = tuple(tensor.shape)
        assert shape[1:] == ref.shape[1:], (shape, ref)
        assert tensor.dtype == ref.storage.dtype, (tensor.dtype, ref)
        self._put(ref.storage.size.to_bytes(8, "little"))
        data = raw_bytes(tensor.detach().cpu().contiguous())
        for block in blocks(data):
            self._put(block.data)
        missing = ref.storage.size * ref.storage.dtype.itemsize - len(data)
        for start in range(0, missing, BLOCK_BYTES):
            self._put(bytes(min(BLOCK_BYTES, missing - start)))

    def sha256(self) -> str:
        """Hash of what was written so far."""
        return self._digest.hexdigest()

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
                assert next(self._tensors, None) is None, "a promised tensor was not written"
                self._file.flush()
                os.fsync(self._file.fileno())

    def _put(self, data: bytes | memoryview) -> None:
        self._digest.update(data)
        self._file.write(data)
