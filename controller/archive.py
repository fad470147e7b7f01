"""Files as a tar stream, both ways, and their sizes to compare afterwards. No cluster here."""

import io
import os
import shutil
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from pangu_core.errors import ConfigError

BLOCK: Final = 1 << 20  # bytes of one piece
Sizes = dict[str, int]  # path below the root, "" for a root that is a file -> bytes


def sizes_of(root: Path) -> Sizes:
    """The regular files of a folder, or a file, with their sizes.

    Raises:
        ConfigError: there is nothing of that name.
    """
    if root.is_file():
        return {"": root.stat().st_size}
    if not root.is_dir():
        raise ConfigError(
            "cp", seen=str(root), rule="must be a file or folder", fix="check the path"
        )
    return {
        path.relative_to(root).as_posix(): path.stat().st_size
        for path in root.rglob("*")
        if stat.S_ISREG(path.lstat().st_mode)
    }


def parse_sizes(text: bytes) -> Sizes:
    """Sizes as ``find`` prints them: each a number, a blank, a path, and a zero byte."""
    entries = (entry.partition(b" ") for entry in text.split(b"\0") if entry)
    return {os.fsdecode(path): int(size) for size, _, path in entries}


def differences(wanted: Sizes, found: Sizes) -> list[str]:
    """What of the wanted files is missing or of another size, a few words each."""
    return [
        f"{path or 'the file'}: {found.get(path, 'no')} instead of {size} bytes"
        for path, size in sorted(wanted.items())
        if found.get(path) != size
    ]


def pack(root: Path, name: str, write: Callable[[bytes], None]) -> None:
    """Write a file or folder as a tar stream, its root called ``name``."""
    with tarfile.open(fileobj=_Writer(write), mode="w|", bufsize=BLOCK) as archive:
        archive.add(root, arcname=name, filter=_without_owner)


def unpack(pieces: Iterator[bytes], name: str, target: Path) -> None:
    """Read a tar stream whose root is called ``name`` into ``target``; nothing lands elsewhere.

    Files and folders only: links are left out.

    Raises:
        ConfigError: the stream is cut off, or leads out of the target.
    """
    try:
        with tarfile.open(fileobj=_Reader(pieces), mode="r|", bufsize=BLOCK) as archive:
            for member in archive:
                below = PurePosixPath(member.name).relative_to(name)
                if ".." in below.parts:
                    raise tarfile.ExtractError(f"{member.name} leads out of {name}")
                _place(archive, member, target / below)
    except (tarfile.TarError, ValueError) as error:
        raise ConfigError(
            "cp", seen=str(error), rule="the archive from the workspace is not whole",
            fix="copy again",
        ) from error  # fmt: skip


def _place(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
    elif member.isreg():
        path.parent.mkdir(parents=True, exist_ok=True)
        content = archive.extractfile(member)
        assert content is not None
        with path.open("wb") as file:
            shutil.copyfileobj(content, file, BLOCK)


def _without_owner(member: tarfile.TarInfo) -> tarfile.TarInfo:
    return member.replace(uid=0, gid=0, uname="", gname="", deep=False)


class _Writer(io.RawIOBase):
    """What tarfile writes to."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        piece = bytes(memoryview(data))  # type: ignore[arg-type]
        self._write(piece)
        return len(piece)


class _Reader(io.RawIOBase):
    """What tarfile reads from."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = pieces, b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._rest = piece
        data, self._rest = self._rest[:size], self._rest[size:]
        return data
