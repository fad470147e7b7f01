"""``pangu verify``: every stored byte of a checkpoint against its manifest."""

import sys
from pathlib import Path

import click

from pangu_core.checkpoint.reader import Checkpoint
from pangu_core.checkpoint.store import find_checkpoint
from pangu_core.entry import process
from pangu_core.entry.progress import progress
from pangu_core.messages import Termination


def verify(source: Path) -> Termination:
    """Read all of a checkpoint and say what it is.

    Raises:
        CheckpointError: something is damaged; everything damaged is listed before.
    """
    folder = find_checkpoint(source)
    checkpoint = Checkpoint.open(folder)
    with progress("verify") as report:
        errors = checkpoint.verify(report)
    for error in errors[1:]:
        click.echo(f"damaged: {error}")
    if errors:
        raise errors[0]
    manifest = checkpoint.manifest
    for name, value in (
        ("checkpoint", folder),
        ("step", manifest.step),
        ("samples", manifest.samples),
        ("layout", f"tp {manifest.layout.tp}, dp {manifest.layout.dp}"),
        ("dtype", manifest.dtype),
        ("parameters", f"{manifest.model.num_parameters:,}"),
        ("optimizer", "yes" if manifest.has_optimizer else "no"),
        ("run", f"{manifest.run.name}, attempt {manifest.run.attempt}"),
        ("slices", f"{len(manifest.slices)}, all intact"),
        ("manifest", checkpoint.manifest_sha256),
    ):
        click.echo(f"{name:<11} {value}")
    return Termination(code=0, step=manifest.step, manifest_sha256=checkpoint.manifest_sha256)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
def main(folder: Path) -> None:
    """Check every tensor of the checkpoint FOLDER; exit code 4 names what is damaged."""
    sys.exit(process.run("verify", lambda: verify(folder)))


if __name__ == "__main__":
    main()
