"""The original's npy folder: one file per parameter, named by its MindSpore name."""

import hashlib
import os
import tokenize
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from pangu_core.checkpoint import durable
from pangu_core.checkpoint.formats.form import Request, Weights, check_free
from pangu_core.checkpoint.formats.mindspore.names import (
    is_transposed,
    original_of_key,
    spellings,
)
from pangu_core.checkpoint.formats.mindspore.tensors import Stored, weights_of
from pangu_core.checkpoint.reader import Report
from pangu_core.checkpoint.stream import Incoming
from pangu_core.checkpoint.tensor_file import DTYPES, DTypeName
from pangu_core.errors import CheckpointError, ConfigError

Array = np.ndarray[Any, Any]
# What the library raises for damaged headers, which it evaluates as Python literals; it asks for
# the memory of a header of up to 4 GB, though it does not touch it.
_DAMAGES: Final = (
    ValueError,
    EOFError,
    MemoryError,
    OverflowError,
    RecursionError,
    SyntaxError,
    TypeError,
    tokenize.TokenError,
)
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


def is_written(target: Path) -> bool:
    """Whether an npy folder is there."""
    return detect(target)


def write(
    weights: Weights, target: Path, *, request: Request, replace_old: bool, report: Report
) -> str:
    """A folder of npy files under the original's names; returns a SHA-256 over their contents.

    Raises:
        ConfigError: the target is there and may not be replaced, or numpy lacks the dtype.
        CheckpointError: a tensor could not be read.
        OSError: the volume refused.
    """
    check_free(target, may_replace=replace_old and is_written(target))
    durable.remove_temporaries(target.parent, target.name)
    temporary = durable.new_temporary(target.parent, target.name)
    digest = hashlib.sha256()
    done, total = 0, sum(tensor.num_bytes for tensor in weights.tensors.values())
    try:
        for key, tensor in weights.tensors.items():
            path = temporary / f"{original_of_key(key)}.npy"
            _write(path, tensor, transposed=is_transposed(key))
            digest.update(durable.file_sha256(path).encode())
            done += tensor.num_bytes
            report(done, total)
        durable.publish(temporary, target)
    finally:
        durable.remove_folder(temporary)  # renamed by now, if all went well
    return digest.hexdigest()


def _write(path: Path, tensor: Incoming, *, transposed: bool) -> None:
    if tensor.dtype not in _DTYPES.values():
        raise ConfigError(
            "dtype",
            seen=tensor.dtype,
            rule="npy files hold only " + ", ".join(_DTYPES.values()),
            fix="cast with --dtype fp32",
        )
    value = tensor.read().to(DTYPES[tensor.dtype].torch)
    array = (value.t() if transposed else value).contiguous().numpy()
    with path.open("xb") as file:
        np.save(file, array)
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path) -> torch.Tensor:
    array = _open(path)  # mapped anew: no map outlives its tensor's turn
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))


def _open(path: Path) -> Array:
    """A read-only map of one file."""
    try:
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise _damaged(path, "no such file") from error
    except _DAMAGES as error:
        raise _damaged(path, str(error)) from error
    return array


def _damaged(path: Path, seen: str) -> CheckpointError:
    rule = "must be a whole npy file without objects"
    return CheckpointError(str(path), seen=seen, rule=rule, fix="copy the file again")
