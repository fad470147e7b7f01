"""``pangu cp``: files into a workspace and out of it, through a pod that has it mounted.

The files go as a tar stream over one websocket; afterwards every size is compared. The helper pod is
deleted whatever happens, and its deadline takes it away where that fails.
"""

import contextlib
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import click

from controller.archive import Sizes, differences, pack, parse_sizes, sizes_of, unpack
from controller.cluster.access import cluster, cluster_options, get_job
from controller.cluster.api import Api
from controller.cluster.execution import Execution
from controller.cluster.kinds import POD
from k8s import names
from k8s.helper import CONTAINER, HelperContext, copy_context
from k8s.placement import PodSettings
from k8s.render import STORE_IMAGE, render_helper_pod
from k8s.spec import read_job
from pangu_core.errors import ConfigError, PanguError

PREFIX: Final = "workspace:"
START_SECONDS: Final = 300.0  # a pull of a large image included
POLL_SECONDS: Final = 0.5
SHOWN: Final = 3


@dataclass(frozen=True)
class Copy:
    """What goes where."""

    local: Path
    remote: PurePosixPath  # below the workspace
    is_upload: bool


@click.command()
@click.argument("source")
@click.argument("target")
@click.option("-w", "--workspace", "claim", help="Claim of the workspace.")
@click.option("--job", help="Take a job's workspace, its image and the placement of its pods.")
@click.option("--image", help=f"Image with tar; default: the job's, else {STORE_IMAGE}.")
@cluster_options
def cp(
    source: str,
    target: str,
    claim: str | None,
    job: str | None,
    image: str | None,
    context: str | None,
    namespace: str | None,
) -> None:
    """Copy a file or folder into a workspace, or out of it.

    One of SOURCE and TARGET is a local path, the other workspace:PATH. A target that ends with /
    is a folder to copy into; otherwise it is the copy's own name.
    """
    copy = parse(source, target)
    expected = sizes_of(copy.local) if copy.is_upload else {}
    with cluster(context, namespace) as api:
        helper = helper_of(api, claim=claim, job=job, image=image)
        with _running(api, helper):
            if copy.is_upload:
                moved = upload(api, helper, copy, expected)
            else:
                moved = download(api, helper, copy)
    click.echo(f"{source} -> {target}: {len(moved)} files, {sum(moved.values()):,} bytes")


def parse(source: str, target: str) -> Copy:
    """Which way, from the two arguments.

    Raises:
        ConfigError: none or both are in the workspace, or a path leaves it.
    """
    is_upload = target.startswith(PREFIX)
    if is_upload == source.startswith(PREFIX):
        raise ConfigError(
            "cp", seen=f"{source} {target}", rule="copies between here and a workspace",
            fix=f"write {PREFIX}PATH for one of the two",
        )  # fmt: skip
    local, remote = (source, target) if is_upload else (target, source)
    path = remote.removeprefix(PREFIX)
    if target.endswith(("/", PREFIX)):  # into a folder, under its own name
        own = PurePosixPath(source.removeprefix(PREFIX)).name
        if is_upload:
            path = str(PurePosixPath(path) / own)
        else:
            local = f"{local}/{own}"
    inside = PurePosixPath(path)
    if inside.is_absolute() or ".." in inside.parts or not inside.name:
        raise ConfigError(
            remote, seen=path or "nothing", rule="must name something inside the workspace",
            fix=f"write for example {PREFIX}corpus",
        )  # fmt: skip
    return Copy(Path(local), inside, is_upload)


def helper_of(api: Api, *, claim: str | None, job: str | None, image: str | None) -> HelperContext:
    """The pod to work through.

    Raises:
        ConfigError: neither a claim nor a job is named, or both, or there is no such job.
    """
    if (claim is None) == (job is None):
        raise ConfigError(
            "cp", seen="-w and --job" if claim else "neither -w nor --job",
            rule="needs one of them to know the workspace", fix="add -w CLAIM or --job NAME",
        )  # fmt: skip
    name = f"pangu-cp-{secrets.token_hex(4)}"
    if claim is not None:
        return copy_context(
            name, api.namespace, claim=claim, image=image or STORE_IMAGE, pods=PodSettings()
        )
    assert job is not None
    found = read_job(get_job(api, job))
    workspace = found.spec.workspace.claim_name or names.workspace_claim(job)
    return copy_context(
        name, api.namespace, claim=workspace, image=image or found.spec.image, pods=found.spec.pods
    )


def upload(api: Api, helper: HelperContext, copy: Copy, expected: Sizes) -> Sizes:
    """Send files; returns their sizes, as they were found in the workspace afterwards."""
    path = PurePosixPath(names.WORKSPACE_MOUNT) / copy.remote
    # The folder to unpack in is made first; both paths are arguments, never part of the program.
    program = 'mkdir -p -- "$1" && exec tar -x -f - -C "$1"'
    command = ["sh", "-c", program, "sh", str(path.parent)]
    running = _execute(api, helper, command)
    with contextlib.closing(running), _bar("sent", sum(expected.values())) as advance:

        def send(data: bytes) -> None:
            running.write(data)
            advance(len(data))

        try:
            pack(copy.local, path.name, send)
            running.end_input()
        except OSError as error:
            _exhaust(running)  # raises what the command said
            raise PanguError(
                "cp", seen=str(error), rule="the connection must last", fix="copy again"
            ) from error
        _exhaust(running)
    return _compared(expected, _sizes_in_workspace(api, helper, path))


def download(api: Api, helper: HelperContext, copy: Copy) -> Sizes:
    """Fetch files; returns their sizes, as they were found here afterwards."""
    path = PurePosixPath(names.WORKSPACE_MOUNT) / copy.remote
    expected = _sizes_in_workspace(api, helper, path)
    command = ["tar", "-c", "-f", "-", "-C", str(path.parent), "--", path.name]
    running = _execute(api, helper, command)
    with contextlib.closing(running), _bar("received", sum(expected.values())) as advance:

        def pieces() -> Iterator[bytes]:
            for piece in running.output():
                advance(len(piece))
                yield piece

        stream = pieces()
        unpack(stream, path.name, copy.local)
        for _ in stream:  # the padding behind the end, and whether tar complained
            pass
    return _compared(expected, sizes_of(copy.local))


def _compared(expected: Sizes, found: Sizes) -> Sizes:
    wrong = differences(expected, found)
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise PanguError(
            "cp", seen=", ".join(wrong[:SHOWN]) + more,
            rule="every copy must have the size of its file",
            fix="copy again while nobody writes there",
        )  # fmt: skip
    return expected


def _sizes_in_workspace(api: Api, helper: HelperContext, path: PurePosixPath) -> Sizes:
    command = ["find", str(path), "-type", "f", "-printf", "%s %P\\0"]
    running = _execute(api, helper, command)
    with contextlib.closing(running):
        return parse_sizes(b"".join(running.output()))


def _execute(api: Api, helper: HelperContext, command: list[str]) -> Execution:
    socket = api.websocket(
        POD.path(helper.namespace, helper.name, "exec"),
        [
            *(("command", word) for word in command),
            ("container", CONTAINER), ("stdin", "true"), ("stdout", "true"), ("stderr", "true"),
        ],
    )  # fmt: skip
    return Execution(socket, command[0])


def _exhaust(running: Execution) -> None:
    for _ in running.output():
        pass


@contextlib.contextmanager
def _running(api: Api, helper: HelperContext) -> Iterator[None]:
    api.create(POD, render_helper_pod(helper), helper.namespace)
    try:
        _wait(api, helper)
        yield
    finally:
        api.delete(POD, helper.namespace, helper.name, grace_seconds=0)


def _wait(api: Api, helper: HelperContext) -> None:
    limit = time.monotonic() + START_SECONDS
    while True:
        pod = api.get(POD, helper.namespace, helper.name)
        phase = pod["status"].get("phase", "Pending")
        if phase == "Running":
            return
        if phase != "Pending" or time.monotonic() > limit:
            raise PanguError(
                f"pod {helper.name}", seen=why_not_running(pod),
                rule=f"must run, to reach claim {helper.claim_name}",
                fix="check claim and image; see 'pangu doctor'",
            )  # fmt: skip
        time.sleep(POLL_SECONDS)


def why_not_running(pod: dict[str, Any]) -> str:
    """Why a pod does not run, in Kubernetes' words."""
    status = pod["status"]
    states = [each.get("state", {}) for each in status.get("containerStatuses", ())]
    waiting = [state["waiting"] for state in states if "waiting" in state]
    unmet = [c for c in status.get("conditions", ()) if c["status"] == "False"]
    for each in (*waiting, *unmet):
        if each.get("message") or each.get("reason"):
            return f"{each.get('reason', '')}: {each.get('message', '')}".strip(": ")
    return str(status.get("phase", "Pending"))


@contextlib.contextmanager
def _bar(word: str, total: int) -> Iterator[Any]:
    """A function that is told of bytes: a bar on a terminal, a line for every tenth elsewhere."""
    # Imported here: rich is slow to import, and only copies need it.
    from pangu_core.entry.progress import progress

    done = 0
    with progress(word) as report:

        def advance(count: int) -> None:
            nonlocal done
            done += count
            report(min(done, total), total)

        yield advance
