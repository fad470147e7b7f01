"""MindSpore's checkpoints as a format: a single ``.ckpt`` file, or the shards of many ranks."""

import os
from functools import partial
from pathlib import Path

from pangu_core.checkpoint import durable
from pangu_core.checkpoint.formats.form import Request, Weights, check_free
from pangu_core.checkpoint.formats.mindspore import ckpt, shards
from pangu_core.checkpoint.formats.mindspore.names import is_transposed, original_of_key
from pangu_core.checkpoint.formats.mindspore.tensors import Stored, weights_of
from pangu_core.checkpoint.reader import Report
from pangu_core.checkpoint.tensor_file import DTYPES
from pangu_core.errors import ConfigError


def detect(source: Path) -> bool:
    """Whether this is a checkpoint file, a folder with one, or a folder of shards."""
    if source.is_dir():
        return shards.is_sharded(source) or len(_files(source)) == 1
    return source.is_file() and (source.suffix == ".ckpt" or ckpt.looks_like_ckpt(source))


def inputs(source: Path) -> list[Path]:
    """Every file that ``read`` would look at, a strategy file elsewhere left out."""
    if not source.is_dir():
        return [source]
    return sorted(path for path in source.rglob("*") if path.suffix in (".ckpt", ".npy"))


def read(source: Path, request: Request) -> Weights:
    """Index the file or all shards; no tensor's data is read yet.

    Raises:
        ConfigError: the head count or the strategy file is not known, or it is the 200B network.
        CheckpointError: a file is damaged or missing, or of other sizes than asked for.
    """
    if shards.is_sharded(source):
        return weights_of(source, shards.stored(shards.find(source, request.strategy)), request)
    path = _single_file(source)
    stored = {
        name: Stored(
            f"{path}: {name} at offset {place.extents[0].offset}",
            place.shape,
            place.dtype,
            partial(ckpt.read, path, place),
        )
        for name, place in ckpt.index(path).items()
    }
    return weights_of(path, stored, request)


def is_written(target: Path) -> bool:
    """Whether a checkpoint file is there."""
    return ckpt.looks_like_ckpt(target)


def write(
    weights: Weights, target: Path, *, request: Request, replace_old: bool, report: Report
) -> str:
    """One ``.ckpt`` file under the original's names; returns its SHA-256.

    Raises:
        ConfigError: the target is there and may not be replaced.
        CheckpointError: a tensor could not be read.
        OSError: the volume refused.
    """
    check_free(target, may_replace=replace_old and is_written(target))
    durable.remove_temporaries(target.parent, target.name)
    folder = durable.new_temporary(target.parent, target.name)
    try:
        _write(folder / target.name, weights, report)
        digest = durable.file_sha256(folder / target.name)
        (folder / target.name).replace(target)
        durable.fsync_folder(target.parent)
    finally:
        durable.remove_folder(folder)
    return digest


def _write(path: Path, weights: Weights, report: Report) -> None:
    done, total = 0, sum(tensor.num_bytes for tensor in weights.tensors.values())
    with path.open("xb") as file:
        for key, tensor in weights.tensors.items():
            value = tensor.read().to(DTYPES[tensor.dtype].torch)
            value = value.t() if is_transposed(key) else value
            ckpt.write_tensor(file, original_of_key(key), value, tensor.dtype)
            del value  # before the next one is read
            done += tensor.num_bytes
            report(done, total)
        file.flush()
        os.fsync(file.fileno())


def _single_file(source: Path) -> Path:
    if not source.is_dir():
        return source
    files = _files(source)
    if len(files) == 1:
        return files[0]
    raise ConfigError(
        "source",
        seen=", ".join(path.name for path in files) or f"no .ckpt file in {source}",
        rule="must be one MindSpore file, or shards named filerted_<rank>.ckpt or rank_<rank>",
        fix="name the file",
    )


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.ckpt") if path.is_file())
