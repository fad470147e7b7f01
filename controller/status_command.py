"""``pangu status``: the jobs and services of a namespace, or one of them in full."""

import json
import time
from collections.abc import Sequence
from typing import Any

import click

from controller.cluster.access import cluster, cluster_options, get_either
from controller.cluster.kinds import JOB, SERVICE
from controller.cluster.services import SERVICE_COLUMNS, service_details, service_row
from controller.usage import SECONDS_PER_HOUR, counted
from k8s.status import GpuUsage, JobStatus, from_dict

Object = dict[str, Any]
COLUMNS = ("NAME", "PHASE", "STAGE", "STEP", "LOSS", "RESTARTS", "AGE")


@click.command()
@click.argument("name", required=False)
@click.option("--watch", is_flag=True, help="Follow the job until it has ended.")
@click.option("--json", "as_json", is_flag=True, help="The objects as the API server has them.")
@cluster_options
def status(
    name: str | None, watch: bool, as_json: bool, context: str | None, namespace: str | None
) -> None:
    """Show the jobs and services of a namespace, or one of them in full.

    NAME is a job's, else a service's; ps/NAME is a service's in any case.
    """
    with cluster(context, namespace) as api:
        if name is None:
            jobs, services = (api.list(kind, api.namespace)["items"] for kind in (JOB, SERVICE))
            if as_json:
                click.echo(json.dumps([*jobs, *services]))
                return
            click.echo(table(jobs, time.time()))
            if services:
                click.echo(f"\n{aligned([SERVICE_COLUMNS, *map(service_row, services)])}")
        elif watch:
            from controller.cluster.watching import follow

            raise SystemExit(follow(api, name))
        else:
            item = get_either(api, name)
            if as_json:
                click.echo(json.dumps(item))
            elif item["kind"] == SERVICE.name:
                click.echo(service_details(item))
            else:
                click.echo(details(item, time.time()))


def table(items: list[Object], now: float) -> str:
    """One line a job."""
    if not items:
        return "no PanguJob here; 'pangu submit FILE' creates one"
    return aligned([COLUMNS, *(_row(item, now) for item in items)])


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a table, columns as wide as they have to be."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def details(item: Object, now: float) -> str:
    """A job in full: stages, conditions that say something, what became of earlier attempts."""
    found = from_dict(item.get("status") or {})
    lines = [f"{item['metadata']['name']}: {found.phase}"]
    lines += [_stage_line(found, stage.name) for stage in found.stages]
    lines += [
        f"  {c.type}: {c.status} ({c.reason}){': ' + c.message if c.message else ''}"
        for c in found.conditions
        if c.message
    ]
    if found.gpu:
        lines.append(f"  {_hours(counted(found.gpu, int(now)))}")
    for past in found.history:
        message = f": {past.message}" if past.message else ""
        lines.append(
            f"  {past.stage} attempt {past.number}: {past.outcome} ({past.cause}){message}"
        )
    return "\n".join(lines)


def _hours(usage: GpuUsage) -> str:
    parts = (
        f"{seconds / SECONDS_PER_HOUR:.1f} {word}"
        for word, seconds in (
            ("redone", usage.redone_seconds),
            ("waiting", usage.waiting_seconds),
            ("surplus", usage.surplus_seconds),
        )
        if seconds
    )
    wasted = ", ".join(parts)
    used = f"GPU hours: {usage.used_seconds / SECONDS_PER_HOUR:.1f}"
    return f"{used} (of them {wasted})" if wasted else used


def _stage_line(found: JobStatus, name: str) -> str:
    stage = found.stage(name)
    output = f" -> {stage.output}" if stage.output else ""
    return f"  {name:<10} {stage.state:<9} attempt {stage.attempt}{output}"


def _row(item: Object, now: float) -> tuple[str, ...]:
    found = from_dict(item.get("status") or {})
    progress = found.progress
    loss = "" if progress is None or progress.loss is None else f"{progress.loss:.3f}"
    return (
        item["metadata"]["name"],
        found.phase,
        found.attempt.stage if found.attempt else "",
        f"{progress.step}/{progress.steps}" if progress else "",
        loss,
        str(sum(found.restarts.values())),
        _age(item, now),
    )


def _age(item: Object, now: float) -> str:
    from k8s.status import from_rfc3339

    seconds = max(0, int(now - from_rfc3339(item["metadata"]["creationTimestamp"])))
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
