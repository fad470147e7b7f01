"""``pangu export``: a checkpoint of any layout written in the format that others read."""

import sys
from pathlib import Path
from typing import Any

import click

from pangu_core.config.stages import ConvertConfig
from pangu_core.entry import process
from pangu_core.entry.convert import (
    BY_HAND,
    convert_by_hand,
    convert_stage,
    divisor_option,
    optimizer_option,
    ranks_option,
)
from pangu_core.entry.rewriting import (
    dtype_option,
    require_both,
    source_argument,
    target_argument,
)


@click.command()
@source_argument
@target_argument
@click.option("--format", "to_format", default="pangu", help="Format of TARGET.")
@optimizer_option
@dtype_option
@ranks_option
@divisor_option
def main(source: Path | None, target: Path | None, **settings: Any) -> None:
    """Write the weights of the checkpoint SOURCE to TARGET.

    Without arguments everything comes from the stage's config file.
    """
    if source is None and target is None:
        sys.exit(process.run("export", lambda: convert_stage("export")))
    old, new = require_both(source, target)
    config = ConvertConfig(
        run=BY_HAND, source=str(old), target=str(new), from_format="pangu", **settings
    )
    sys.exit(process.run("export", lambda: convert_by_hand(config)))


if __name__ == "__main__":
    main()
