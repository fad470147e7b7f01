"""The train pod's command: hear signals first, then do the work (train_pod.py)."""

import sys

import click

from pangu_core.launch.stop import StopRequest


@click.command()
@click.option("--config", help="Config file; default: what PANGU_CONFIG names.")
def main(config: str | None) -> None:
    """Train on this node, alone or as one of many."""
    stop = StopRequest.installed()
    # After the handler: this loads the better part of a second.
    from pangu_core.entry import train_pod

    sys.exit(train_pod.run(config, stop))


if __name__ == "__main__":
    main()
