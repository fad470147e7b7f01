"""Whole tensors out of the files of all model-parallel ranks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pangu_core.checkpoint.formats.megatron.names import StoredTensor, unfuse
from pangu_core.checkpoint.tensor_file import DTYPES, DTypeName, raw_bytes
from pangu_core.checkpoint.torch_files.reading import TorchFile
from pangu_core.checkpoint.torch_files.values import TensorRef
from pangu_core.errors import CheckpointError
from pangu_core.layout import Shape

Missing = Callable[[TorchFile], TensorRef]


@dataclass(frozen=True)
class Sharded:
    """One stored tensor, as each rank has it."""

    name: str  # for messages
    files: Sequence[TorchFile]
    refs: tuple[TensorRef, ...]
    cut: int | None

    @property
    def shape(self) -> Shape:
        """Shape of the whole, padding included.

        Raises:
            CheckpointError: the ranks' shapes differ.
        """
        shape = self.refs[0].shape
        for file, ref in zip(self.files, self.refs, strict=True):
            if ref.shape != shape or ref.storage.dtype != self.refs[0].storage.dtype:
                raise refusal(file, self.name, str(ref.shape), f"must be {shape} as in rank 0")
        if self.cut is None:
            return shape
        if self.cut >= len(shape):
            raise refusal(self.files[0], self.name, str(shape), "must have another dimension")
        sizes = list(shape)
        sizes[self.cut] *= len(self.refs)
        return tuple(sizes)

    @property
    def dtype(self) -> DTypeName:
        """Its dtype.

        Raises:
            CheckpointError: it is no floating dtype.
        """
        name = self.files[0].dtype(self.refs[0])
        if name == "int64":
            raise refusal(self.files[0], self.name, name, "must be floating-point numbers")
        return name

    def read(self) -> torch.Tensor:
        """The whole tensor. What is not cut is taken from the first rank, as the port does."""
        pairs = list(zip(self.files, self.refs, strict=True))
        if self.cut is None:
            pairs = pairs[:1]
        arrays = [file.array(ref) for file, ref in pairs]  # checked before memory is taken
        whole = torch.empty(self.shape, dtype=DTYPES[self.dtype].torch)
        target = raw_bytes(whole).view(DTYPES[self.dtype].raw).reshape(self.shape)
        start = 0
        for array in arrays:
            stop = start + (array.shape[self.cut] if self.cut is not None else 0)
            place = [slice(None)] * array.ndim
            if self.cut is not None:
                place[self.cut] = slice(start, stop)
            target[tuple(place)] = array
            start = stop
        return whole


def find_tensor(files: Sequence[TorchFile], root: str, stored: StoredTensor) -> Sharded:
    """A tensor of the model in every rank's file.

    Raises:
        CheckpointError: a file lacks it.
    """
    refs = tuple(_find(file, root, stored) for file in files)
    return Sharded(".".join((root, *stored.paths[0])), files, refs, stored.cut)


def part_of(
    sharded: Sharded, stored: StoredTensor, parameter: str, *, shape: Shape, num_heads: int
) -> Callable[[], torch.Tensor]:
    """A function that reads one parameter out of a stored tensor, padding rows cut off."""
    index, count = stored.parameters.index(parameter), len(stored.parameters)

    def read() -> torch.Tensor:
        return unfuse(sharded.read(), index, count, num_heads)[: shape[0]]

    return read


def lookup(content: Any, path: Sequence[str]) -> Any:
    """A value in nested dictionaries; None if it is not there."""
    for key in path:
        content = content.get(key) if isinstance(content, Mapping) else None
    return content


def refusal(file: TorchFile, name: str, seen: str, rule: str) -> CheckpointError:
    """The error of a file whose tensors do not make up a model."""
    return CheckpointError(
        f"{file.path}: {name}", seen=seen, rule=rule, fix="copy the files again, or name others"
    )


def _find(file: TorchFile, root: str, stored: StoredTensor) -> TensorRef:
    for path in stored.paths:
        value = lookup(file.content, (root, *path))
        if isinstance(value, TensorRef):
            return value
    names = " or ".join(".".join(path) for path in stored.paths)
    raise refusal(file, root, f"no {names}", "must hold every tensor of the model")
