"""Brings files from elsewhere into a folder: only what is missing, and going on where it stopped.

folder/
  .fetched.json          what each file was when it came: its path there, size, version
  .5f3a....part          a file on its way; it gets its name when it is whole
  corpus/a.txt           a file
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from pangu_core.checkpoint import durable
from pangu_core.errors import RemoteError, WorkspaceError
from pangu_core.remote.address import shown
from pangu_core.remote.faults import retrying
from pangu_core.remote.files import BLOCK_BYTES, Piece, Remote, RemoteFile

INDEX: Final = ".fetched.json"
PART_SUFFIX: Final = ".part"
# Asked for at the same time: enough to hide a store's latency, and 64 MB of memory.
PIECES_AT_ONCE: Final = 32
WINDOW_BYTES: Final = 8 * BLOCK_BYTES
Report = Callable[[int, int], None]  # bytes done, bytes in all
Count = Callable[[int], None]  # bytes more


@dataclass(frozen=True)
class _Coming:
    """A file that is to come."""

    name: str
    file: RemoteFile
    part: Path

    @property
    def num_there(self) -> int:
        """Bytes of it that came already."""
        return self.part.stat().st_size if self.part.exists() else 0

    @property
    def num_missing(self) -> int:
        """Bytes that are still to come, as far as it is known."""
        return max(0, (self.file.size or 0) - self.num_there)


def bring(remote: Remote, folder: Path, report: Report, *, folders: bool = True) -> bool:
    """Make a folder hold the files that an address means, and no others.

    ``folders``: whether the address may be a folder. Returns whether anything changed. Interrupted, the next call goes on where it stopped, unless
    the file there has changed.

    Raises:
        ConfigError: there is no such file, or something is missing to read it.
        RemoteError: the network or the store failed, several times.
        WorkspaceError: there is no room for the files.
        OSError: the volume refused.
    """
    wanted = remote.matches(folders=folders)
    folder.mkdir(parents=True, exist_ok=True)
    index = _read_index(folder)
    coming = [
        _Coming(name, file, folder / f".{_digest(file)}{PART_SUFFIX}")
        for name, file in wanted.items()
        if not _is_there(folder / name, file, index.get(name))
    ]
    sure = {each.part for each in coming if each.file.version and each.file.size is not None}
    has_removed = _remove_others(folder, set(wanted), sure)
    _check_room(folder, coming)
    total = sum(file.size or 0 for file in wanted.values())
    done = total - sum(each.num_missing for each in coming)

    def count(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        report(done, total)

    for arrived in _transfer(remote, coming, count):
        for each in arrived:
            _keep(remote, each, folder / each.name)
            index[each.name] = asdict(each.file)
        durable.replace_json(folder / INDEX, index)
    return bool(coming) or has_removed


def _transfer(remote: Remote, coming: Iterable[_Coming], count: Count) -> Iterator[list[_Coming]]:
    """Write the files' parts; gives those that have become whole."""
    if not remote.has_ranges:
        for each in coming:
            retrying(partial(_stream, remote, each, count))
            yield [each]
        return
    for window in _windows(coming):
        pieces = [piece for _, piece in window if piece.stop > piece.start]
        blocks = iter(retrying(partial(remote.read_pieces, pieces)) if pieces else ())
        for each, piece in window:
            _append(each.part, [next(blocks)] if piece.stop > piece.start else [], count)
        whole = [each for each, piece in window if piece.stop == each.file.size]
        if whole:
            yield whole


def _stream(remote: Remote, coming: _Coming, count: Count) -> None:
    """All of a file from a server whose answers come one after another."""
    _append(coming.part, remote.stream(coming.file, coming.num_there), count)
    found, size = coming.num_there, coming.file.size
    if size is not None and found != size:
        coming.part.unlink()
        raise RemoteError(
            remote.subject,
            seen=f"{shown(coming.file.path)}: {found} bytes came",
            rule=f"the server said {size}",
            fix="run again",
        )


def _windows(coming: Iterable[_Coming]) -> Iterator[list[tuple[_Coming, Piece]]]:
    """Pieces to ask for at the same time: of many small files, or of a large one."""
    window: list[tuple[_Coming, Piece]] = []
    for each in coming:
        assert each.file.size is not None
        start = min(each.num_there, each.file.size)
        for begin in range(start, each.file.size, BLOCK_BYTES) or (start,):
            piece = Piece(each.file, begin, min(begin + BLOCK_BYTES, each.file.size))
            window.append((each, piece))
            num_bytes = sum(p.stop - p.start for _, p in window)
            if len(window) == PIECES_AT_ONCE or num_bytes >= WINDOW_BYTES:
                yield window
                window = []
    if window:
        yield window


def _append(part: Path, blocks: Iterable[bytes], count: Count) -> None:
    with part.open("ab") as file:
        for block in blocks:
            file.write(block)
            count(len(block))
        file.flush()
        os.fsync(file.fileno())


def _keep(remote: Remote, coming: _Coming, target: Path) -> None:
    """Give a whole file its name, if it was the same file from the first byte to the last."""
    size = coming.file.size
    in_pieces = size is None or size > BLOCK_BYTES
    if in_pieces and remote.stat(coming.file).version != coming.file.version:
        coming.part.unlink()
        raise RemoteError(
            remote.subject,
            seen=f"{shown(coming.file.path)}: changed while it was read",
            rule="must stay as it is until it has come whole",
            fix="run again",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    coming.part.replace(target)


def _is_there(path: Path, file: RemoteFile, known: Any) -> bool:
    """Whether a file came before, from the same place in the same version, and is whole."""
    same = bool(file.version) and known == asdict(file)
    return same and path.is_file() and file.size in (None, path.stat().st_size)


def _remove_others(folder: Path, names: set[str], parts: set[Path]) -> bool:
    """Remove files that are not meant any more; returns whether one had a name."""
    has_named = False
    for path in [path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()]:
        name = path.relative_to(folder).as_posix()
        if name not in names and path not in parts and name != INDEX:
            path.unlink()
            has_named = has_named or path.suffix != PART_SUFFIX
    return has_named


def _check_room(folder: Path, coming: Iterable[_Coming]) -> None:
    """Find out before hours of copying, not after; volumes that do not say are believed."""
    needed = sum(each.num_missing for each in coming)
    usage = shutil.disk_usage(folder)
    if usage.total and needed > usage.free:
        raise WorkspaceError(
            "workspace",
            seen=f"{usage.free / 1e9:.1f} GB free",
            rule=f"{needed / 1e9:.1f} GB are to be fetched",
            fix="free space on the volume, or use a larger one, then run again",
        )


def _digest(file: RemoteFile) -> str:
    """A name for what of a file has come, that no other version of it shares."""
    return hashlib.sha256(json.dumps(asdict(file)).encode()).hexdigest()[:24]


def _read_index(folder: Path) -> dict[str, Any]:
    try:
        index: Mapping[str, Any] = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        return dict(index)
    except (FileNotFoundError, ValueError, TypeError):
        return {}
