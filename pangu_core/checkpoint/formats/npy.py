"""The original's npy folder: one file per parameter, named by its MindSpore name."""

from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from pangu_core.checkpoint.formats.form import Request, Weights
from pangu_core.checkpoint.formats.mindspore.names import spellings
from pangu_core.checkpoint.formats.mindspore.tensors import Stored, weights_of
from pangu_core.checkpoint.tensor_file import DTypeName
from pangu_core.errors import CheckpointError

Array = np.ndarray[Any, Any]
_DTYPES: Final[dict[str, DTypeName]] = {"f2": "fp16", "f4": "fp32", "f8": "fp64"}


def detect(source: Path) -> bool:
    """Whether a folder looks like the original's npy dump."""
    return any((source / f"{name}.npy").is_file() for name in spellings("word_embedding.weight"))


def inputs(source: Path) -> list[Path]:
    """Every npy file."""
    return sorted(source.glob("*.npy"))


def read(source: Path, request: Request) -> Weights:
    """The headers of all files; their data is read when its turn comes.

    Raises:
        ConfigError: nothing says how many heads there are.
        CheckpointError: a file is missing, damaged, or of another shape.
    """
    stored = {path.name.removesuffix(".npy"): stored_file(path) for path in inputs(source)}
    return weights_of(source, stored, request)


def stored_file(path: Path) -> Stored:
    """One npy file, its header checked.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    array = _open(path)
    dtype = _DTYPES.get(array.dtype.str[1:], str(array.dtype))
    return Stored(str(path), array.shape, dtype, partial(_read, path))


def _read(path: Path) -> torch.Tensor:
    array = _open(path)  # mapped anew: no map outlives its tensor's turn
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))


def _open(path: Path) -> Array:
    """A read-only map of one file."""
    try:
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise _damaged(path, "no such file") from error
    except (ValueError, EOFError) as error:
        raise _damaged(path, str(error)) from error
    return array


def _damaged(path: Path, seen: str) -> CheckpointError:
    rule = "must be a whole npy file without objects"
    return CheckpointError(str(path), seen=seen, rule=rule, fix="copy the file again")
