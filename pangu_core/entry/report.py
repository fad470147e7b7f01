"""``pangu report``: one HTML page about a run, from what lies in its folder."""

import sys
from pathlib import Path

import click

from pangu_core.entry import process
from pangu_core.errors import ConfigError
from pangu_core.messages import Termination
from pangu_core.reporting.findings import gather
from pangu_core.reporting.page import render

PAGE_NAME = "report.html"


def report(run_folder: Path, output: Path | None, sample_file: Path | None) -> Termination:
    """Write the page; returns its path.

    Raises:
        ConfigError: the sample cannot be read.
        DataError: the folder holds no metrics.
    """
    sample = _read_sample(sample_file) if sample_file else None
    target = output or run_folder / PAGE_NAME
    page = render(gather(run_folder), sample)
    target.write_text(page, encoding="utf-8")
    click.echo(target)
    return Termination(code=0, output=str(target))


def _read_sample(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "--sample-file",
            seen=str(path),
            rule=f"must be a readable UTF-8 file ({error})",
            fix="check the path, or leave the option out",
        ) from error


@click.command()
@click.argument("run_folder", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), help=f"default: {PAGE_NAME} in there")
@click.option("--sample-file", type=click.Path(path_type=Path), help="text the model wrote")
def main(run_folder: Path, output: Path | None, sample_file: Path | None) -> None:
    """Write a page about the run in RUN_FOLDER: losses, speed, interruptions, sample text."""
    sys.exit(process.run("report", lambda: report(run_folder, output, sample_file)))


if __name__ == "__main__":
    main()
