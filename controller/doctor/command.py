"""The verb: looks at everything in turn and prints what it found."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

import click

from controller.cluster.access import cluster, cluster_options
from controller.doctor.finding import Check, Finding, examined
from controller.doctor.platform import api_server, controller, definitions
from controller.doctor.resources import claims, gpus, storage
from controller.doctor.rights import rights
from controller.doctor.training import kueue, training_operator

CHECKS: Final[dict[str, Check]] = {
    "API server": api_server,
    "definitions": definitions,
    "controller": controller,
    "training operator": training_operator,
    "rights": rights,
    "storage classes": storage,
    "claims": claims,
    "GPU nodes": gpus,
    "Kueue": kueue,
}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As a list of objects.")
@cluster_options
def doctor(as_json: bool, context: str | None, namespace: str | None) -> int:
    """Look for what a cluster lacks for our jobs, and say how to mend it.

    Exit code: 0 if nothing is bad, else 1.
    """
    with cluster(context, namespace) as api:
        findings = list(examined(api, CHECKS))
    if as_json:
        click.echo(json.dumps([asdict(each) for each in findings], indent=2))
    elif sys.stdout.isatty():
        _show(findings)
    else:
        for each in findings:
            click.echo(line(each))
    return int(any(each.state == "bad" for each in findings))


def line(finding: Finding) -> str:
    """A finding on one line."""
    fix = f"; {finding.fix}" if finding.fix else ""
    return f"{finding.state}: {finding.subject}: {finding.seen}{fix}"


def _show(findings: Sequence[Finding]) -> None:
    # Imported here: rich is for terminals only, and slow to import.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colours = {"good": "green", "note": "yellow", "bad": "red"}
    table = Table("", "what", "seen", "mend it by", show_edge=False)
    for each in findings:
        mark = Text(each.state, style=colours[each.state])
        table.add_row(mark, *(Text(text) for text in (each.subject, each.seen, each.fix)))
    Console().print(table)
