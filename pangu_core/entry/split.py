"""``pangu split``: a checkpoint cut into one file per tensor-parallel rank."""

import sys
from pathlib import Path

import click

from pangu_core.checkpoint.tensor_file import DTypeName
from pangu_core.entry import process
from pangu_core.entry.rewriting import (
    dtype_option,
    require_both,
    reshard_stage,
    rewrite,
    source_argument,
    target_argument,
)
from pangu_core.messages import Termination


@click.command()
@source_argument
@target_argument
@click.option("--tp", type=click.IntRange(min=1), default=1, help="Tensor-parallel ranks.")
@click.option("--optimizer", is_flag=True, help="Carry the optimizer's moments along.")
@dtype_option
def main(
    source: Path | None, target: Path | None, tp: int, optimizer: bool, dtype: DTypeName | None
) -> None:
    """Cut the checkpoint SOURCE into TARGET, one file for each of --tp ranks.

    SOURCE is a checkpoint folder of any layout, or a folder of checkpoints, whose newest is taken.
    Without arguments everything comes from the stage's config file.
    """
    if source is None and target is None:
        sys.exit(process.run("split", lambda: reshard_stage("split")))
    old, new = require_both(source, target)

    def work() -> Termination:
        digest = rewrite("split", old, new, tp=tp, optimizer=optimizer, dtype=dtype)
        return Termination(code=0, output=str(new), manifest_sha256=digest)

    sys.exit(process.run("split", work))


if __name__ == "__main__":
    main()
