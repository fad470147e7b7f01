"""Weight formats: which ones are there, which one a folder holds, and how each is brought over."""

from pathlib import Path
from typing import Final

from pangu_core.checkpoint import npy
from pangu_core.checkpoint.manifest import Header
from pangu_core.checkpoint.store import holds_checkpoint
from pangu_core.checkpoint.stream import Target, write_stream
from pangu_core.config import ConvertConfig
from pangu_core.entry.progress import progress
from pangu_core.entry.rewriting import rewrite
from pangu_core.errors import ConfigError

READABLE: Final = ("pangu", "npy")
WRITABLE: Final = ("pangu",)


def convert(
    source: Path,
    target: Path,
    config: ConvertConfig,
    *,
    num_heads: int | None = None,
    replace_old: bool = False,
) -> str:
    """Write the weights of ``source`` as a checkpoint; returns the SHA-256 of its manifest.

    Raises:
        ConfigError: a format that cannot be read or written, or sizes that are not known.
        CheckpointError: the source is damaged or of other sizes than configured.
    """
    _check("toFormat", config.to_format, WRITABLE)
    if detect(source, config.from_format) == "pangu":
        return rewrite("convert", source, target, dtype=config.dtype, replace_old=replace_old)
    model = npy.sizes_of(source, config.model, num_heads)
    tensors = npy.incoming(source, model, config.dtype)
    dtype = tensors["model/word_embedding.weight"].dtype
    header = Header(model=model, run=config.run, dtype=dtype)
    with progress("convert") as report:
        return write_stream(Target(target, header, replace=replace_old), tensors, report)


def detect(source: Path, named: str) -> str:
    """The format of a folder: the one that is named, or found by looking.

    Raises:
        ConfigError: it is of no format that can be read.
    """
    if named != "auto":
        _check("fromFormat", named, READABLE)
        return named
    if npy.is_npy_folder(source):
        return "npy"
    if holds_checkpoint(source):
        return "pangu"
    raise ConfigError(
        "source",
        seen=str(source),
        rule=f"must hold weights of one of the formats {', '.join(READABLE)}",
        fix="check the path",
    )


def _check(field: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(
            field, seen=value, rule="is not built yet", fix=f"use {' or '.join(known)}"
        )
