"""The verbs that only read a job file: ``pangu validate`` and ``pangu render``."""

from pathlib import Path

import click

from k8s.spec import PanguJob, parse
from k8s.stages import plan
from pangu_core.errors import ConfigError

FILE = click.argument("file", type=click.Path(path_type=Path))
OVERRIDES = click.option(
    "--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override one field."
)


@click.command()
@FILE
@OVERRIDES
def validate(file: Path, overrides: tuple[str, ...]) -> None:
    """Check a job file and say what it would do."""
    for each in parse(file, overrides):
        if isinstance(each, PanguJob):
            stages = ", ".join(stage.name for stage in plan(each))
            click.echo(f"PanguJob {each.name}: valid; stages: {stages}")
        else:
            click.echo(f"PanguService {each.name}: valid")


@click.command()
@FILE
@click.option("--stage", help="Print what one stage needs, for kubectl apply without a controller.")
@click.option(
    "--attempt", type=click.IntRange(1), default=1, show_default=True, help="With --stage: which."
)
@OVERRIDES
def render(file: Path, stage: str | None, attempt: int, overrides: tuple[str, ...]) -> None:
    """Print the manifests of a job file, as YAML.

    The pods of a stage expect what the stages before it leave in the workspace. Each start needs
    an attempt number of its own.
    """
    # Loaded here, so that validate does not pay for the template engine.
    from k8s import render as rendering
    from k8s.check import problems
    from k8s.text import pretty_documents

    manifests = []
    for each in parse(file, overrides):
        if not stage:
            manifests += rendering.render(each)
        elif isinstance(each, PanguJob):
            manifests += rendering.render_claim(each)
            manifests += rendering.render_stage(each, stage, attempt)
    found = problems(manifests)
    if found:
        raise ConfigError(
            str(file), seen=found[0], rule="the manifests do not agree", fix="rename or remove it"
        )
    click.echo(pretty_documents(manifests), nl=False)
