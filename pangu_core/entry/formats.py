"""The table of weight formats, which one a source is of, and how one becomes another."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar

from pangu_core.checkpoint.formats import npy, pangu
from pangu_core.checkpoint.formats.form import Reader, Request, Writer
from pangu_core.checkpoint.formats.huggingface import folder as huggingface
from pangu_core.checkpoint.formats.megatron import core, port
from pangu_core.checkpoint.formats.mindspore import files as mindspore
from pangu_core.config.model import Activation
from pangu_core.config.stages import ConvertConfig
from pangu_core.entry.progress import progress
from pangu_core.errors import ConfigError

# In the order in which a source is looked at.
READERS: Final[Mapping[str, Reader]] = {
    "mindspore": mindspore,
    "npy": npy,
    "pangu": pangu,
    "megatron": port,
    "megatron-core": core,
    "huggingface": huggingface,
}
WRITERS: Final[Mapping[str, Writer]] = {
    "pangu": pangu,
    "mindspore": mindspore,
    "npy": npy,
    "megatron": port,
    "megatron-core": core,
    "huggingface": huggingface,
}
T = TypeVar("T")


def convert(
    source: Path,
    target: Path,
    config: ConvertConfig,
    *,
    strategy: Path | None = None,
    num_heads: int | None = None,
    activation: Activation | None = None,
    replace_old: bool = False,
) -> str:
    """Write the weights of ``source`` in another format; returns a SHA-256 of the result.

    ``activation`` overrules what the source says, or what is taken where it is silent.

    Raises:
        ConfigError: a format that cannot be read or written, or sizes that are not known.
        CheckpointError: the source is damaged or of other sizes than configured.
    """
    to_format = writer(config.to_format)
    request = Request(
        run=config.run,
        model=config.model,
        num_heads=num_heads,
        dtype=config.dtype,
        optimizer=config.optimizer,
        strategy=strategy,
        tensor_parallel=config.tensor_parallel,
        vocab_divisor=config.vocab_divisor,
    )
    weights = reader(source, config.from_format).read(source, request)
    if activation is not None:
        model = weights.header.model.model_copy(update={"activation": activation})
        weights = replace(weights, header=replace(weights.header, model=model))
    with progress("convert") as report:
        return to_format.write(
            weights, target, request=request, replace_old=replace_old, report=report
        )


def reader(source: Path, named: str) -> Reader:
    """The format of a source: the one that is named, or found by looking.

    Raises:
        ConfigError: it is of no format that can be read.
    """
    if named != "auto":
        return _choose("fromFormat", named, READERS)
    for form in READERS.values():
        if form.detect(source):
            return form
    raise ConfigError(
        "source",
        seen=str(source),
        rule=f"must hold weights of one of the formats {', '.join(READERS)}",
        fix="check the path",
    )


def writer(named: str) -> Writer:
    """The format of a target.

    Raises:
        ConfigError: it cannot be written.
    """
    return _choose("toFormat", named, WRITERS)


def _choose(field: str, named: str, known: Mapping[str, T]) -> T:
    if named not in known:
        fix = f"use {' or '.join(known)}"
        raise ConfigError(field, seen=named, rule="is not built yet", fix=fix)
    return known[named]
