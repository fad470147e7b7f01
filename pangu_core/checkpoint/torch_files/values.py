"""What stands for tensors and objects while a file of ``torch.save`` is read or written."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from pangu_core.errors import CheckpointError
from pangu_core.layout import Shape

STORAGES: Final[Mapping[str, torch.dtype]] = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "BoolStorage": torch.bool,
    "ShortStorage": torch.int16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
}


@dataclass(frozen=True)
class Named:
    """A class or function that a pickle names, as ``module name``; it stays a name."""

    name: str


@dataclass
class Instance:
    """What stands in for an object of an allowed class."""

    name: str  # module name
    state: Any = None

    def get(self, attribute: str, default: Any = None) -> Any:
        """One of its attributes."""
        return self.state.get(attribute, default) if isinstance(self.state, dict) else default


@dataclass(frozen=True)
class StorageRef:
    """A run of numbers that lies elsewhere in the file."""

    key: str
    dtype: torch.dtype
    size: int  # elements


@dataclass(frozen=True)
class TensorRef:
    """A tensor as a view of a storage."""

    storage: StorageRef
    offset: int
    shape: Shape
    stride: Shape


def refusal(source: Path, offset: int, seen: str) -> CheckpointError:
    """The error of a file that cannot be read as data."""
    return CheckpointError(
        f"{source}: offset {offset}",
        seen=seen,
        rule="must be a file of torch.save that holds data alone; nothing in it was run",
        fix="copy the file again; if it names code, do not trust where it came from",
    )
