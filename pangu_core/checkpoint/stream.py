"""Writes a whole checkpoint one tensor at a time: split, merge, and what importers bring.

Memory is bounded by a few copies of the largest tensor, whatever the size of the model.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from pangu_core.checkpoint import durable
from pangu_core.checkpoint.manifest import (
    FILE_NAME,
    MODEL,
    MOMENTS,
    Header,
    Layout,
    StoredSlice,
    key_of,
)
from pangu_core.checkpoint.reader import Checkpoint, Report, silent
from pangu_core.checkpoint.reshard import stored_parts
from pangu_core.checkpoint.tensor_file import DTYPES, DTypeName, Entry, TensorWriter
from pangu_core.checkpoint.writer import commit, file_name, kind_of, slices_metadata
from pangu_core.config.base import divisors
from pangu_core.errors import ConfigError
from pangu_core.layout import Shape, Slice, parameter_shapes, relative, whole


@dataclass(frozen=True)
class Incoming:
    """A whole tensor that can be had when its turn comes."""

    shape: Shape
    dtype: DTypeName  # to be written; ``read`` may give another
    read: Callable[[], torch.Tensor]

    @property
    def num_bytes(self) -> int:
        """Bytes that it takes on the disk."""
        return Entry("", self.shape, self.dtype).num_bytes


@dataclass(frozen=True)
class Target:
    """A checkpoint folder to write."""

    folder: Path
    header: Header  # header.layout.tp says into how many files the weights go; dp must be 1
    step: int = 0
    vocabulary: Path | None = None
    replace: bool = False  # whether a checkpoint that is there may be replaced


def reshard(
    source: Checkpoint,
    folder: Path,
    *,
    tp: int = 1,
    optimizer: bool = False,
    dtype: DTypeName | None = None,
    replace_old: bool = False,
    report: Report = silent,
) -> str:
    """Write a checkpoint again for ``tp`` tensor ranks; 1 gives one whole file.

    ``dtype`` casts the weights; the moments, carried along if ``optimizer``, stay as they are.
    Returns the SHA-256 of the new manifest.

    Raises:
        ConfigError: the heads do not divide by ``tp``, or the folder holds something else.
        CheckpointError: the source is damaged, or has no moments though they are wanted.
        OSError: the volume refused.
    """
    manifest = source.manifest
    _check_heads(manifest.model.num_heads, tp)
    tensors = tensors_of(source, optimizer=optimizer, dtype=dtype)
    header = replace(manifest.header, layout=Layout(tp, 1), dtype=dtype or manifest.dtype)
    target = Target(folder, header, manifest.step, source.vocabulary(), replace_old)
    return write_stream(target, tensors, report)


def tensors_of(
    source: Checkpoint, *, optimizer: bool = False, dtype: DTypeName | None = None
) -> dict[str, Incoming]:
    """Key -> whole tensor of a checkpoint; ``dtype`` casts the weights, never the moments.

    Raises:
        CheckpointError: the checkpoint has no moments though they are wanted.
    """

    def incoming(key: str, shape: Shape, cast: DTypeName | None) -> Incoming:
        stored = cast or source.slices(key)[0].dtype
        return Incoming(shape, stored, lambda: source.read(key, whole(shape)))

    tensors = {}
    for group in (MODEL, *MOMENTS) if optimizer else (MODEL,):
        for name, shape in parameter_shapes(source.manifest.model).items():
            key = key_of(group, name)
            tensors[key] = incoming(key, shape, dtype if group == MODEL else None)
    return tensors


def write_stream(
    target: Target,
    tensors: Mapping[str, Incoming],
    report: Report = silent,
) -> str:
    """Write a checkpoint from tensors that come one after another; whole or invisible.

    Returns the SHA-256 of its manifest. Raises:
        ConfigError: the folder exists and may not be replaced.
        CheckpointError: the tensors do not make up the model, or one could not be read.
        OSError: the volume refused.
    """
    check_target(target.folder, may_replace=target.replace)
    durable.remove_temporaries(target.folder.parent, target.folder.name)
    temporary = durable.new_temporary(target.folder.parent, target.folder.name)
    try:
        slices = list(_write_files(temporary, target.header.layout.tp, tensors, report))
        return commit(
            temporary,
            target.folder,
            header=target.header,
            step=target.step,
            slices=slices,
            vocabulary=target.vocabulary,
        )
    finally:
        durable.remove_folder(temporary)  # renamed by now, if all went well


def check_target(folder: Path, *, may_replace: bool) -> None:
    """Refuse to write over what is no checkpoint, or over any without permission.

    Raises:
        ConfigError: see above.
    """
    if folder.exists() and not (may_replace and (folder / FILE_NAME).is_file()):
        raise ConfigError(
            "target folder",
            seen=str(folder),
            rule="must not exist yet",
            fix="name another folder, or remove this one",
        )


def _check_heads(num_heads: int, tp: int) -> None:
    if num_heads % tp:
        raise ConfigError(
            "tensorParallel",
            seen=tp,
            rule=f"must divide the model's {num_heads} heads",
            fix=f"choose one of {divisors(num_heads)}",
        )


def _write_files(
    folder: Path, tp: int, tensors: Mapping[str, Incoming], report: Report
) -> Iterator[StoredSlice]:
    """One file per tensor rank and kind, all open at once, so that each tensor is read once."""
    plans: dict[tuple[str, int], dict[str, Slice]] = {}
    for key, tensor in tensors.items():
        for rank in range(tp):
            part = stored_parts(key.partition("/")[2], tensor.shape, tp, rank, 1, 0)
            if part is not None:
                plans.setdefault((kind_of(key), rank), {})[key] = part
    done, total = 0, sum(tensor.num_bytes for tensor in tensors.values())
    with ExitStack() as stack:
        writers = {}
        for (kind, rank), plan in plans.items():
            path = folder / file_name(kind, rank)
            writers[kind, rank] = stack.enter_context(_open(path, plan, tensors))
        for key, tensor in tensors.items():
            value = tensor.read().to(DTYPES[tensor.dtype].torch)
            for rank in range(tp):
                part = plans.get((kind_of(key), rank), {}).get(key)
                if part is not None:
                    piece = value[relative(part, whole(tensor.shape))]
                    digest = writers[kind_of(key), rank].write(key, piece)
                    file = file_name(kind_of(key), rank)
                    yield StoredSlice(key, file, tensor.shape, part, tensor.dtype, digest)
            del value, piece  # before the next one is read
            done += tensor.num_bytes
            report(done, total)


def _open(path: Path, plan: Mapping[str, Slice], tensors: Mapping[str, Incoming]) -> TensorWriter:
    entries = [
        Entry(key, tuple(stop - start for start, stop in part), tensors[key].dtype)
        for key, part in plan.items()
    ]
    parts = ((key, tensors[key].shape, part) for key, part in plan.items())
    return TensorWriter(path, entries, slices_metadata(parts))
