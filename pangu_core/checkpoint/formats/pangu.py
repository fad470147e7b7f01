"""Our own checkpoints, of any layout, as one format among the others."""

from dataclasses import replace
from pathlib import Path

from pangu_core.checkpoint.formats.form import Request, Weights
from pangu_core.checkpoint.manifest import FILE_NAME, Layout
from pangu_core.checkpoint.reader import Checkpoint, Report
from pangu_core.checkpoint.store import find_checkpoint, holds_checkpoint
from pangu_core.checkpoint.stream import Target, tensors_of, write_stream


def detect(source: Path) -> bool:
    """Whether this is a checkpoint or a folder of them."""
    return holds_checkpoint(source)


def inputs(source: Path) -> list[Path]:
    """The manifest, which has the digest of everything else."""
    return [find_checkpoint(source) / FILE_NAME]


def read(source: Path, request: Request) -> Weights:
    """The tensors of a checkpoint, or of the newest in a folder of checkpoints.

    Raises:
        CheckpointError: it cannot be trusted, or has no moments though they are wanted.
    """
    checkpoint = Checkpoint.open(find_checkpoint(source))
    tensors = tensors_of(checkpoint, optimizer=request.optimizer, dtype=request.dtype)
    manifest = checkpoint.manifest
    header = replace(manifest.header, dtype=request.dtype or manifest.dtype)
    vocabulary = checkpoint.vocabulary()
    return Weights(header=header, tensors=tensors, step=manifest.step, vocabulary=vocabulary)


def is_written(target: Path) -> bool:
    """Whether a committed checkpoint is there."""
    return (target / FILE_NAME).is_file()


def write(
    weights: Weights, target: Path, *, request: Request, replace_old: bool, report: Report
) -> str:
    """One whole checkpoint; returns the SHA-256 of its manifest.

    Raises:
        ConfigError: the target is there and may not be replaced.
        CheckpointError: a tensor could not be read.
        OSError: the volume refused.
    """
    header = replace(weights.header, layout=Layout())
    folder = Target(target, header, weights.step, weights.vocabulary, replace_old)
    return write_stream(folder, weights.tensors, report)
