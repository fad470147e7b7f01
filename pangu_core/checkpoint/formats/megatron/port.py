"""The Megatron port's checkpoints as a format: read in either dialect, written in the port's."""

import logging
from pathlib import Path

from pangu_core.checkpoint.formats.form import Request, Weights
from pangu_core.checkpoint.formats.megatron import folder, reading, writing
from pangu_core.checkpoint.formats.megatron.names import PORT
from pangu_core.checkpoint.reader import Report

logger = logging.getLogger(__name__)


def detect(source: Path) -> bool:
    """Whether a folder is laid out like Megatron's, tracker file or not."""
    return folder.looks_like(source)


def inputs(source: Path) -> list[Path]:
    """The tracker file and the files that it points to."""
    return [source / folder.TRACKER, *folder.find(source).files]


def read(source: Path, request: Request) -> Weights:
    """See ``reading.read``: the files themselves say which dialect they are of."""
    return reading.read(source, request)


def is_written(target: Path) -> bool:
    """Whether a whole result is there."""
    return writing.is_written(target)


def write(
    weights: Weights, target: Path, *, request: Request, replace_old: bool, report: Report
) -> str:
    """A folder that the port's own tools read, of 2021 too; see ``writing.write_folder``."""
    if weights.header.model.activation == "gelu_tanh":
        logger.info("give the port's own programs --openai-gelu: this model has the tanh GELU")
    cut = writing.Cut(request.tensor_parallel, request.vocab_divisor)
    return writing.write_folder(
        weights, target, dialect=PORT, cut=cut, replace_old=replace_old, report=report
    )
