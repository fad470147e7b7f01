"""``pangu convert``: weights of another format made into a checkpoint."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, get_args

import click

from pangu_core.config.model import Activation
from pangu_core.config.stages import ConvertConfig, RunIdentity
from pangu_core.entry import formats, process, uploading
from pangu_core.entry.rewriting import (
    dtype_option,
    require_both,
    run_stage,
    source_argument,
    target_argument,
)
from pangu_core.messages import Termination
from pangu_core.workspace import resolve

# Who writes when no job does.
BY_HAND: Final = RunIdentity(name="by-hand", uid="by-hand")


def convert_stage(stage: str) -> Termination:
    """The pod's work of ``convert`` and ``export``: everything is in the config file."""
    config = process.read_config(ConvertConfig)
    strategy = resolve(config.strategy) if config.strategy else None
    is_written = formats.writer(config.to_format).is_written

    def write(source: Path, target: Path) -> str:
        digest = formats.convert(source, target, config, strategy=strategy, replace_old=True)
        if config.copy_to:
            uploading.upload(target, config.copy_to)
        return digest

    def is_there(target: Path) -> bool:
        url = config.copy_to
        return is_written(target) and (url is None or uploading.is_uploaded(target, url))

    result = run_stage(
        stage,
        config,
        write,
        inputs=lambda source: formats.reader(source, config.from_format).inputs(source),
        is_written=is_there,
    )
    return replace(result, output=config.copy_to) if config.copy_to else result


def convert_by_hand(
    config: ConvertConfig, num_heads: int | None = None, activation: Activation | None = None
) -> Termination:
    """A direct call: paths are the file system's own, and nothing is replaced."""
    digest = formats.convert(
        Path(config.source),
        Path(config.target),
        config,
        strategy=Path(config.strategy) if config.strategy else None,
        num_heads=num_heads,
        activation=activation,
    )
    return Termination(code=0, output=config.target, manifest_sha256=digest)


ranks_option = click.option(
    "--tp",
    "tensor_parallel",
    type=click.IntRange(min=1),
    default=1,
    help="Files of a Megatron TARGET, one for each model-parallel rank.",
)
divisor_option = click.option(
    "--vocab-divisor",
    type=click.IntRange(min=1),
    default=128,
    help="A Megatron TARGET pads the vocabulary to a multiple of this, for each rank.",
)
optimizer_option = click.option(
    "--optimizer", is_flag=True, help="Carry the optimizer's moments along."
)


@click.command()
@source_argument
@target_argument
@click.option("--from", "from_format", default="auto", help="Format of SOURCE.")
@click.option("--to", "to_format", default="pangu", help="Format of TARGET.")
@click.option("--heads", type=click.IntRange(min=1), help="Attention heads, if SOURCE is silent.")
@click.option(
    "--activation",
    type=click.Choice(get_args(Activation)),
    help="The model's activation, if SOURCE is silent or wrong.",
)
@click.option("--strategy", help="Strategy file of a distributed MindSpore checkpoint.")
@optimizer_option
@dtype_option
@ranks_option
@divisor_option
def main(
    source: Path | None,
    target: Path | None,
    heads: int | None,
    activation: Activation | None,
    **settings: Any,
) -> None:
    """Read the weights in SOURCE, of any format known, and write them to TARGET.

    Without arguments everything comes from the stage's config file.
    """
    if source is None and target is None:
        sys.exit(process.run("convert", lambda: convert_stage("convert")))
    old, new = require_both(source, target)
    config = ConvertConfig(run=BY_HAND, source=str(old), target=str(new), **settings)
    sys.exit(process.run("convert", lambda: convert_by_hand(config, heads, activation)))


if __name__ == "__main__":
    main()
