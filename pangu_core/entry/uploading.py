"""Copies an exported folder elsewhere: what tells readers that it is whole comes last."""

from pathlib import Path
from typing import Final

from pangu_core.checkpoint.formats.huggingface import description
from pangu_core.checkpoint.formats.megatron import folder as megatron
from pangu_core.checkpoint.manifest import FILE_NAME
from pangu_core.entry.progress import progress
from pangu_core.errors import ConfigError
from pangu_core.remote.address import shown
from pangu_core.remote.copying import copy_folder
from pangu_core.remote.files import Remote

SUBJECT: Final = "export.to"
# By these, readers know a folder of each format.
LAST: Final = frozenset({FILE_NAME, megatron.TRACKER, description.FILE_NAME})


def upload(folder: Path, url: str) -> None:
    """Copy a folder to an address, with a progress bar.

    Raises:
        ConfigError: other files are there, or something is missing to write there.
        RemoteError: the network or the store failed, several times.
    """
    remote, sizes = Remote(url, subject=SUBJECT), _sizes(folder)
    others = sorted(remote.files().keys() - sizes.keys())
    if others:
        raise ConfigError(
            SUBJECT,
            seen=f"{shown(url)}: holds {others[0]}",
            rule="must be empty, or hold an earlier export with the same files",
            fix="name another folder, or empty this one",
        )
    done, total = 0, sum(sizes.values())
    with progress("upload") as report:

        def count(num_bytes: int) -> None:
            nonlocal done
            done += num_bytes
            report(done, total)

        copy_folder(folder, remote, last=LAST, count=count)


def is_uploaded(folder: Path, url: str) -> bool:
    """Whether files of the same names and sizes are there."""
    there = Remote(url, subject=SUBJECT).files()
    return {name: file.size for name, file in there.items()} == _sizes(folder)


def _sizes(folder: Path) -> dict[str, int]:
    """Name -> bytes of the files in a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
