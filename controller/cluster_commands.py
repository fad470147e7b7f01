"""Verbs that change a job in a cluster: submit, suspend, resume, scale, cancel, rerun, delete."""

from pathlib import Path
from typing import Any

import click

from controller.cluster.access import (
    cluster,
    cluster_options,
    get_either,
    get_job,
    kind_by_name,
)
from controller.cluster.api import Api
from controller.cluster.kinds import JOB, SERVICE
from controller.cluster.services import scaled
from controller.file_commands import FILE, OVERRIDES
from k8s.serving import manifest_of
from k8s.spec import PanguJob, PanguService, parse, read_job
from k8s.stages import find, plan
from k8s.status import from_dict
from pangu_core.errors import ConfigError

MANAGER = "pangu"
NAME = click.argument("name")


@click.command()
@FILE
@OVERRIDES
@click.option(
    "--dry-run", type=click.Choice(["client", "server"]), help="Check only: here, or there."
)
@click.option("--watch", is_flag=True, help="Follow the job until it has ended.")
@cluster_options
def submit(
    file: Path,
    overrides: tuple[str, ...],
    dry_run: str | None,
    watch: bool,
    context: str | None,
    namespace: str | None,
) -> None:
    """Create what a job file asks for, or change what is there already.

    Exit code with --watch: 0 complete, else the failing pod's own.
    """
    objects = parse(file, overrides)
    if dry_run == "client":
        for each in objects:
            click.echo(_described(each, "would be submitted"))
        return
    with cluster(context, namespace) as api:
        for each in objects:
            click.echo(_described(each, _apply(api, each, dry_run=dry_run == "server")))
        jobs = [each for each in objects if isinstance(each, PanguJob)]
        if watch and jobs and not dry_run:
            from controller.cluster.watching import follow

            raise SystemExit(follow(api, jobs[0].name))


@click.command()
@NAME
@cluster_options
def suspend(name: str, context: str | None, namespace: str | None) -> None:
    """Let a job save what it has and give its pods back."""
    with cluster(context, namespace) as api:
        _change(api, name, {"suspend": True})
    click.echo(f"PanguJob {name}: suspending; its pods save and end")


@click.command()
@NAME
@cluster_options
def resume(name: str, context: str | None, namespace: str | None) -> None:
    """Let a suspended job go on where it was."""
    with cluster(context, namespace) as api:
        _change(api, name, {"suspend": False})
    click.echo(f"PanguJob {name}: resumed")


@click.command()
@NAME
@click.argument("nodes", type=click.IntRange(0))
@cluster_options
def scale(name: str, nodes: int, context: str | None, namespace: str | None) -> None:
    """Let a job train with at most NODES nodes from now on, or a service have so many pods.

    NAME is a job's, else a service's; ps/NAME is a service's in any case.
    """
    with cluster(context, namespace) as api:
        item = get_either(api, name)
        if item["kind"] == SERVICE.name:
            click.echo(scaled(api, item, nodes))
            return
        if nodes == 0:
            raise ConfigError("NODES", seen=0, rule="must be at least 1", fix="use 'pangu suspend'")
        low = item["spec"]["train"].get("nodes", {}).get("min", 1)
        sizes = {"max": nodes, **({"min": nodes} if low > nodes else {})}
        _change(api, name, {"train": {"nodes": sizes}})
    click.echo(f"PanguJob {name}: at most {nodes} nodes")


@click.command()
@NAME
@cluster_options
def cancel(name: str, context: str | None, namespace: str | None) -> None:
    """End a job for good: its pods save and end, its results stay."""
    with cluster(context, namespace) as api:
        found = from_dict(get_job(api, name).get("status") or {})
        if found.is_terminal:
            click.echo(f"PanguJob {name}: has ended already ({found.phase})")
            return
        _change(api, name, {"cancel": True})
    click.echo(f"PanguJob {name}: cancelled; its pods save and end")


@click.command()
@NAME
@click.option("--from", "stage", required=True, help="The first stage to run again.")
@cluster_options
def rerun(name: str, stage: str, context: str | None, namespace: str | None) -> None:
    """Run a job again from one of its stages, also when it has ended.

    A stage whose output is there and fits its inputs is skipped; training goes on from its last
    checkpoint.
    """
    with cluster(context, namespace) as api:
        item = get_job(api, name)
        first = find(read_job(item), stage).name
        number = item["spec"].get("rerun", {}).get("number", 0) + 1
        _change(api, name, {"cancel": False, "rerun": {"from": first, "number": number}})
    click.echo(f"PanguJob {name}: runs again from {first}")


@click.command()
@NAME
@cluster_options
@click.option("--with-data", is_flag=True, help="Delete what a job wrote, too: runs/NAME.")
def delete(name: str, with_data: bool, context: str | None, namespace: str | None) -> None:
    """Delete a job or a service with its pods. What is in the workspace stays.

    NAME is a job's, else a service's; ps/NAME is a service's in any case. With --with-data a Job
    deletes the folder of the run, once the pods of the job are gone.
    """
    with cluster(context, namespace) as api:
        item = get_either(api, name)
        kind, metadata = kind_by_name(item["kind"]), item["metadata"]
        name, uid = metadata["name"], metadata["uid"]
        if with_data and kind != JOB:
            raise ConfigError(
                "--with-data", seen=f"{kind.name} {name}", rule="is for jobs: a service writes nothing",
                fix="leave it out",
            )  # fmt: skip
        api.delete(kind, api.namespace, name, uid=uid, propagation="Foreground")
        if with_data:
            click.echo(f"PanguJob {name}: deleted; waiting for its pods to end")
            from controller.clean_up import clean_up

            made = clean_up(api, item)
            click.echo(
                f"Job {made}: deletes runs/{name}; kubectl logs job/{made} says if it cannot"
            )
            return
    kept = f"runs/{name} stays in the workspace" if kind == JOB else "its model stays"
    click.echo(f"{kind.name} {name}: deleted; {kept}")


def _apply(api: Api, each: PanguJob | PanguService, *, dry_run: bool) -> str:
    """Create or change an object; says what happened."""
    kind = kind_by_name(each.kind)
    manifest = manifest_of(each)
    metadata = manifest["metadata"]
    metadata["namespace"] = metadata.get("namespace") or api.namespace
    query = {"fieldManager": MANAGER, "force": "true", "fieldValidation": "Strict"}
    if dry_run:
        query["dryRun"] = "All"
    path = kind.path(metadata["namespace"], metadata["name"])
    stored = api.request("PATCH", path, query, manifest, "application/apply-patch+yaml")
    if dry_run:
        return "accepted by the server (dry run)"
    return "submitted" if stored["metadata"]["generation"] == 1 else "configured"


def _change(api: Api, name: str, spec: dict[str, Any]) -> None:
    get_job(api, name)  # says which job is missing, and where
    api.patch(JOB, api.namespace, name, {"spec": spec})


def _described(each: PanguJob | PanguService, what: str) -> str:
    if isinstance(each, PanguJob):
        return f"PanguJob {each.name}: {what}; stages: {', '.join(s.name for s in plan(each))}"
    return f"PanguService {each.name}: {what}"
