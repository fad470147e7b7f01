"""Imports the original's npy folder: one file per parameter, named by its MindSpore name."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from pangu_core.checkpoint.manifest import MODEL, key_of
from pangu_core.checkpoint.mindspore import is_transposed, original_name
from pangu_core.checkpoint.stream import Incoming
from pangu_core.checkpoint.tensor_file import DTypeName
from pangu_core.config import PRESETS, ModelConfig
from pangu_core.errors import CheckpointError, ConfigError
from pangu_core.layout import Shape, parameter_shapes

Array = np.ndarray[Any, Any]
# The published vocabulary; files of the Megatron port's making carry padding rows behind it.
PUBLISHED_ROWS: Final = 40_000
_DTYPES: Final[dict[str, DTypeName]] = {"f2": "fp16", "f4": "fp32", "f8": "fp64"}
logger = logging.getLogger(__name__)


def is_npy_folder(folder: Path) -> bool:
    """Whether a folder looks like the original's npy dump."""
    return _path(folder, "word_embedding.weight").is_file()


def sizes_of(
    folder: Path, model: ModelConfig | None = None, num_heads: int | None = None
) -> ModelConfig:
    """The network's sizes, from the files' shapes.

    The files do not say how many heads there are: ``model`` or ``num_heads`` does, or else the
    published network of the same sizes. With ``model``, everything else must agree; surplus
    vocabulary rows may be there and are dropped.

    Raises:
        CheckpointError: files are missing or are of other sizes than ``model``.
        ConfigError: nothing says how many heads there are.
    """
    rows, hidden = _matrix(folder, "word_embedding.weight").shape
    positions = len(_matrix(folder, "position_embedding.weight"))
    blocks = 0
    while _path(folder, f"layers.{blocks}.ln1.weight").is_file():
        blocks += 1
    found = {"num_layers": blocks + 1, "hidden_size": hidden, "sequence_length": positions}
    if model is None:
        found["vocab_size"] = min(rows, PUBLISHED_ROWS)
        if num_heads is not None:
            return ModelConfig(num_heads=num_heads, **found)
        return _with_heads(folder, found)
    for name, value in {**found, "vocab_size": min(rows, model.vocab_size)}.items():
        if value != getattr(model, name):
            raise CheckpointError(
                f"{folder}: {name}",
                seen=value,
                rule=f"must equal the configured {getattr(model, name)}",
                fix=f"set model.{name} to {value}, or name another folder",
            )
    return model


def incoming(
    folder: Path, model: ModelConfig, dtype: DTypeName | None = None
) -> dict[str, Incoming]:
    """Key -> tensor, each read when its turn comes.

    Raises:
        CheckpointError: a file is missing, damaged, or of another shape.
    """
    return {
        key_of(MODEL, name): _incoming(folder, name, shape, dtype)
        for name, shape in parameter_shapes(model).items()
    }


def _incoming(folder: Path, name: str, shape: Shape, dtype: DTypeName | None) -> Incoming:
    array = _open(folder, name)
    found = array.shape[::-1] if is_transposed(name) else array.shape
    surplus = name == "word_embedding.weight" and found[0] > shape[0]
    if (shape[0], *found[1:]) != shape or not (surplus or found[0] == shape[0]):
        path = _path(folder, name)
        raise _damaged(path, f"shape {array.shape}", f"must give {shape} as {name}")
    stored = _dtype(folder, name, array)
    return Incoming(shape, dtype or stored, _reader(folder, name, shape))


def _reader(folder: Path, name: str, shape: Shape) -> Callable[[], torch.Tensor]:
    def read() -> torch.Tensor:
        array = _open(folder, name)  # mapped anew: no map outlives its tensor's turn
        rows = array.T if is_transposed(name) else array[: shape[0]]
        native = rows.dtype.newbyteorder("=")
        return torch.from_numpy(np.array(rows, dtype=native, order="C"))

    return read


def _with_heads(folder: Path, found: dict[str, int]) -> ModelConfig:
    for name, preset in PRESETS.items():
        if all(getattr(preset, field) == value for field, value in found.items()):
            logger.info("sizes are those of %s: %d heads", name, preset.num_heads)
            return preset
    raise ConfigError(
        "model.numHeads",
        seen=f"nothing; {folder} holds {found}",
        rule="the files do not say how many attention heads there are",
        fix="give the sizes as model in the job file, or --heads N to the command",
    )


def _matrix(folder: Path, name: str) -> Array:
    array = _open(folder, name)
    if array.ndim != 2:
        raise _damaged(_path(folder, name), f"shape {array.shape}", "must be a matrix")
    return array


def _open(folder: Path, name: str) -> Array:
    """A read-only map of one file."""
    path = _path(folder, name)
    try:
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise _damaged(path, "no such file", f"must hold {name}") from error
    except (ValueError, EOFError) as error:
        raise _damaged(path, str(error), "must be a whole npy file without objects") from error
    return array


def _dtype(folder: Path, name: str, array: Array) -> DTypeName:
    if array.dtype.str[1:] not in _DTYPES:
        raise _damaged(_path(folder, name), str(array.dtype), "must be a float of 2, 4 or 8 bytes")
    return _DTYPES[array.dtype.str[1:]]


def _path(folder: Path, name: str) -> Path:
    return folder / f"{original_name(name)}.npy"


def _damaged(path: Path, seen: str, rule: str) -> CheckpointError:
    return CheckpointError(str(path), seen=seen, rule=rule, fix="copy the file again")
