"""``fetch``: weights and text from elsewhere into the workspace, before any other stage."""

import sys

import click

from pangu_core.checkpoint import ownership
from pangu_core.config.stages import FetchConfig
from pangu_core.entry import process
from pangu_core.entry.downloading import bring
from pangu_core.entry.progress import progress
from pangu_core.entry.stopping import stopped_by_signals
from pangu_core.messages import Termination
from pangu_core.remote.files import Remote
from pangu_core.workspace import RunPaths, resolve

STAGE = "fetch"


def fetch() -> Termination:
    """The pod's work: look at every source, and bring what is new there."""
    config = process.read_config(FetchConfig)
    paths = RunPaths(config.run.name)
    ownership.claim(resolve(paths.root), config.run, STAGE)
    has_changed = False
    with stopped_by_signals(STAGE, "what has come is kept"):
        for source in config.sources:
            with progress(f"{STAGE} {source.field}") as report:
                remote = Remote(source.url, subject=source.field)
                target = resolve(source.target)
                has_changed |= bring(remote, target, report, folders=source.folders)
    return Termination(code=0, output=paths.fetched, skipped=not has_changed)


@click.command()
def main() -> None:
    """Bring weights and text into the workspace; everything comes from the stage's config file."""
    sys.exit(process.run(STAGE, fetch))


if __name__ == "__main__":
    main()
