"""Copies a folder elsewhere so that a half-copied one is never taken for whole."""

import time
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

from pangu_core.remote.faults import retrying
from pangu_core.remote.files import Count, Remote


def copy_folder(
    folder: Path,
    remote: Remote,
    *,
    last: Collection[str],
    below: str = "",
    count: Count | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> None:
    """Copy all files of a folder; those named in ``last``, by which readers know it, come last.

    If an earlier copy is there, they go first. Files that are there besides stay.

    Args:
        folder: on this machine.
        remote: the folder elsewhere.
        last: names of files, wherever in the folder they are.
        below: path in ``remote`` to copy to, with a slash at its end.
        count: is told of bytes that were sent.
        sleep: waits between two tries.

    Raises:
        ConfigError: something is missing to write there.
        RemoteError: the network or the store failed, several times.
        OSError: the folder here could not be read.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    seals = [path for path in files if path.name in last]
    for path in seals:
        retrying(partial(remote.remove, _name(path, folder, below)), sleep=sleep)
    for path in [path for path in files if path not in seals] + seals:
        retrying(partial(remote.upload, path, _name(path, folder, below), count), sleep=sleep)


def _name(path: Path, folder: Path, below: str) -> str:
    return f"{below}{path.relative_to(folder).as_posix()}"
