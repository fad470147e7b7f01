"""``pangu run FILE``: execute a job file on this machine, the way the pods would."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click

from controller.jobs import job_view
from controller.local.cluster import LocalCluster
from controller.local.folder import RunFolder
from controller.local.kubelet import Kubelet
from controller.local.pods import Places
from controller.local.runtime import LocalRuntime
from controller.observe import JobView
from controller.plain_lines import PlainLines
from controller.status import reopened
from controller.story import Reporter
from k8s.render import render_stage
from k8s.spec import PanguJob, parse_job
from k8s.status import JobStatus, PastAttempt
from pangu_core.errors import ConfigError
from pangu_core.workspace import RunPaths

# One machine's first retry need not wait for a cluster to calm down.
BACKOFF_SECONDS = 1.0


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--workspace",
    type=click.Path(path_type=Path),
    default=Path("work"),
    show_default=True,
    help="Folder that stands for the job's volume: corpora, weights and runs are in it.",
)
@click.option(
    "--set",
    "overrides",
    metavar="PATH=VALUE",
    multiple=True,
    help="Override one field of the file, e.g. train.steps=10; may be repeated.",
)
def run(file: Path, workspace: Path, overrides: tuple[str, ...]) -> None:
    """Run a job file on this machine, stage after stage.

    Running it again continues where it stopped; a finished stage is repeated only if its settings
    or files changed or its output is gone. Ctrl-C asks the pods to save and end, a second one kills them.

    Exit code: 0 complete; the failing pod's own code; 130 or 143 after Ctrl-C or SIGTERM.
    """
    sys.exit(run_job(parse_job(file, overrides), workspace))


def run_job(job: PanguJob, workspace: Path) -> int:
    """Run a checked job in a workspace folder; return the exit code.

    Raises:
        ConfigError: the workspace is no folder, or the job needs what only a cluster has.
        WorkspaceError: the workspace cannot be used, another process runs this job, or another
            job owns its folder.
    """
    workspace = workspace.absolute()
    if not workspace.is_dir():
        raise ConfigError(
            "--workspace",
            seen=str(workspace),
            rule="must be a folder that exists",
            fix="create it and copy the corpus into it, or name another",
        )
    folder = RunFolder(workspace.resolve(), job)
    # A folder has no queue.
    job = job.model_copy(update={"spec": job.spec.model_copy(update={"queue": None})})
    with folder.locked():
        generation, before = folder.load()
        view = job_view(job, generation=generation, backoff_seconds=BACKOFF_SECONDS)
        # Nobody else waits for what these pods hold, and somebody looks on.
        view = replace(view, surplus_seconds=None, notifies=False)
        hashes = {plan.name: plan.settings_hash for plan in view.stages}
        status = reopened(before, hashes, kept=_kept(before, view, folder))
        folder.save_job()
        with _reporter(view) as reporter:
            reporter.tell([f"{job.name}: workspace {folder.workspace}, logs in {folder.logs}"])
            code, after = _run(job, view, folder, status, reporter)
            reporter.tell([*_last_words(after, folder), *_how_to_serve(job, after, folder)])
    return code


def _kept(status: JobStatus, view: JobView, folder: RunFolder) -> list[str]:
    """Training that is done and whose checkpoint is there: going on would only save it anew."""
    outputs = {p.name: status.stage(p.name).output for p in view.stages if p.needs_manifest}
    return [name for name, path in outputs.items() if path and (folder.workspace / path).is_dir()]


def _run(
    job: PanguJob, view: JobView, folder: RunFolder, status: JobStatus, reporter: Reporter
) -> tuple[int, JobStatus]:
    places = Places(
        workspace=folder.workspace, configs=folder.local / "configs", pods=folder.local / "pods"
    )
    kubelet = Kubelet(logs=folder.logs)
    try:
        runtime = LocalRuntime(
            view,
            lambda stage, attempt: render_stage(job, stage, attempt),
            folder=folder,
            cluster=LocalCluster(kubelet, places=places, environment=os.environ),
            reporter=reporter,
            status=status,
        )
        with _signals_go_to(runtime):
            code = runtime.run()
    finally:
        kubelet.close()
    return code, runtime.status


@contextlib.contextmanager
def _signals_go_to(runtime: LocalRuntime) -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, runtime.stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _reporter(view: JobView) -> Iterator[Reporter]:
    if not sys.stdout.isatty():
        yield PlainLines(sys.stdout)
        return
    # Imported here: rich is for terminals only, and slow to import.
    from rich.console import Console

    from controller.live_table import LiveTable

    with LiveTable(Console(), view) as table:
        yield table


def _how_to_serve(job: PanguJob, status: JobStatus, folder: RunFolder) -> list[str]:
    """What a cluster would start at the end and this machine does not."""
    if job.spec.serve is None or status.phase != "Complete":
        return []
    model = folder.workspace / RunPaths(job.run_name).model
    return [f"serve it: pangu serve --model {model} --name {job.name}"]


def _last_words(status: JobStatus, folder: RunFolder) -> list[str]:
    """Where the results are, or where to look for the reason."""
    if status.phase == "Complete":
        return [f"{stage.name} -> {stage.output}" for stage in status.stages if stage.output]
    if status.phase != "Failed":
        return []
    past: PastAttempt = status.history[-1]  # its end was told in full when it happened
    return [
        f"{past.stage} failed; its output: {folder.logs}/*-{past.stage}-{past.number}-*.log",
    ]
