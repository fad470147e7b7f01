"""Hugging Face folders as a format; reading.py and writing.py do the work."""

from pathlib import Path

from pangu_core.checkpoint.formats.form import Request, Weights
from pangu_core.checkpoint.formats.huggingface import description, reading, writing
from pangu_core.checkpoint.reader import Report


def detect(source: Path) -> bool:
    """Whether a folder is one of PanGu-alpha in transformers' layout."""
    return description.looks_like(source)


def inputs(source: Path) -> list[Path]:
    """The description and the weights."""
    return [source / description.FILE_NAME, *reading.weight_files(source)]


def read(source: Path, request: Request) -> Weights:
    """See ``reading.read``."""
    return reading.read(source, request)


def is_written(target: Path) -> bool:
    """Whether a whole result is there."""
    return description.looks_like(target)


def write(
    weights: Weights, target: Path, *, request: Request, replace_old: bool, report: Report
) -> str:
    """See ``writing.write_folder``."""
    return writing.write_folder(weights, target, replace_old=replace_old, report=report)
