"""The only door to fsspec: lists, reads, writes and removes files below an address.

fsspec and what it brings are imported when the first address is opened: s3fs takes two seconds.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, Final

from pangu_core.errors import ConfigError, RemoteError
from pangu_core.remote.address import WEB, has_wildcards, scheme, shown, split
from pangu_core.remote.faults import told

BLOCK_BYTES: Final = 8 << 20
# Parts of a file that are sent at a time, of 50 MB or more each: bounds the memory of a trainer.
PARTS_AT_ONCE: Final = 4
_SILENCE_SECONDS: Final = 60
Count = Callable[[int], None]  # bytes more
# What changes with a file's content, by the names that file systems have for it.
_VERSIONS: Final = ("ETag", "Content-MD5", "Last-Modified", "mtime", "created")


@dataclass(frozen=True)
class RemoteFile:
    """A file elsewhere."""

    path: str  # as its file system writes it
    size: int | None  # bytes; None where the web server does not say
    version: str  # changes with the content; empty where nothing does


@dataclass(frozen=True)
class Piece:
    """Some bytes of a file."""

    file: RemoteFile
    start: int
    stop: int


class Remote:
    """A file, a folder or a pattern elsewhere.

    Credentials and endpoint come from the environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
    AWS_SESSION_TOKEN, AWS_ENDPOINT_URL, and what else botocore reads.

    Args:
        url: its address.
        subject: whose address it is, for messages: a field of the job file.

    Raises:
        ConfigError: no such protocol, or its library is not installed. Every method raises it for
            what another try would not mend, and RemoteError for what it may.
    """

    def __init__(self, url: str, *, subject: str) -> None:
        self.url, self.subject = url.rstrip("/"), subject
        with self._told():
            import fsspec  # slow, and most jobs have no addresses

            self._fs, self._root = fsspec.core.url_to_fs(self.url, **_options(scheme(url)))

    @property
    def has_ranges(self) -> bool:
        """Whether any part of a file can be read; of web servers only some can do it."""
        return scheme(self.url) not in WEB

    def matches(self, *, folders: bool = True) -> dict[str, RemoteFile]:
        """The files that the address means, by their path below the folder that it begins with.

        A pattern means what it matches, a folder all that is in it.

        Raises:
            ConfigError: there are none, or it is a folder where none may be.
        """
        name = split(self.url)[1]
        with self._told():
            if has_wildcards(self.url):
                base = self._root.removesuffix(name)
                found = self._fs.glob(self._root, detail=True)
                files = {path.removeprefix(base): info for path, info in found.items()}
            else:
                info = self._fs.info(self._root)
                if info["type"] != "directory":
                    return self._inside({name: _file(info)})
                if not folders:
                    fix = f"write {self.url}/*.txt"
                    raise self._refusal(ConfigError, "a folder", "must name files", fix)
                return {f"{name}/{path}": file for path, file in self.files().items()}
        kept = {path: _file(info) for path, info in files.items() if info["type"] == "file"}
        if not kept:
            raise self._refusal(
                ConfigError, "no file", "must match one at least", "check the address"
            )
        return self._inside(kept)

    def files(self) -> dict[str, RemoteFile]:
        """All files below the folder, by their path in it; none where there is no folder."""
        base = f"{self._root.rstrip('/')}/"
        with self._told():
            try:
                found = self._fs.find(self._root, detail=True)
            except FileNotFoundError:
                self._check_bucket()
                found = {}
        return self._inside(
            {
                path.removeprefix(base): _file(info)
                for path, info in found.items()
                if info["type"] == "file" and path.startswith(base) and not path.endswith("/")
            }
        )

    def stat(self, file: RemoteFile) -> RemoteFile:
        """The same file as it is now."""
        with self._told():
            return _file(self._fs.info(file.path))

    def read(self, name: str) -> bytes:
        """All of a small file in the folder."""
        with self._told():
            data: bytes = self._fs.cat_file(self._path(name))
            return data

    def read_pieces(self, pieces: Sequence[Piece]) -> list[bytes]:
        """Pieces of files, asked for at the same time.

        Raises:
            RemoteError: a piece came back shorter than asked for.
        """
        with self._told():
            blocks: list[bytes] = self._fs.cat_ranges(
                [piece.file.path for piece in pieces],
                [piece.start for piece in pieces],
                [piece.stop for piece in pieces],
                on_error="raise",
            )
        for piece, block in zip(pieces, blocks, strict=True):
            if len(block) != piece.stop - piece.start:
                seen = f"{len(block)} bytes from {piece.start} of {piece.file.path}"
                rule = f"{piece.stop - piece.start} were asked for"
                raise self._refusal(RemoteError, seen, rule, "run again")
        return blocks

    def stream(self, file: RemoteFile, start: int = 0) -> Iterator[bytes]:
        """A file's bytes from ``start`` on, one after another.

        A server that cannot begin in the middle sends all; what lies before ``start`` is dropped.
        """
        with self._told():
            position, source = self._open(file, start)
        with source:
            while True:
                with self._told():
                    block = source.read(BLOCK_BYTES)
                if not block:
                    return
                yield block[max(0, start - position) :]
                position += len(block)

    def download(self, name: str, target: Path, count: Count | None = None) -> None:
        """Copy a file of the folder to this machine's disk; the local file is replaced.

        ``count`` is told of bytes that came.
        """
        with self._told():
            self._fs.get_file(self._path(name), str(target), callback=_callback(count))
        with target.open("rb") as file:
            os.fsync(file.fileno())

    def upload(self, source: Path, name: str, count: Count | None = None) -> None:
        """Copy a local file into the folder, and look whether it arrived whole.

        ``count`` is told of bytes that were sent.

        Raises:
            RemoteError: it has another size there.
        """
        size = source.stat().st_size
        with self._told():
            self._fs.put_file(str(source), self._path(name), callback=_callback(count))
            found = self._fs.info(self._path(name))["size"]
        if found != size:
            seen = f"{name} has {found} bytes there"
            raise self._refusal(RemoteError, seen, f"{size} were sent", "run again")

    def remove(self, name: str) -> None:
        """Remove a file of the folder; one that is not there is removed already."""
        with self._told():
            try:
                self._fs.rm_file(self._path(name))
            except FileNotFoundError:
                return

    def _open(self, file: RemoteFile, start: int) -> tuple[int, Any]:
        """A reader and where it stands: at ``start``, or at 0 of a server without ranges."""
        if start:
            source = self._fs.open(
                file.path, "rb", block_size=BLOCK_BYTES, cache_type="none", size=file.size
            )
            try:
                source.seek(start)
                source.read(1)
                source.seek(start)
            except ValueError:  # fsspec's word for it
                source.close()
            else:
                return start, source
        return 0, self._fs.open(file.path, "rb", block_size=0, size=file.size)

    def _inside(self, files: dict[str, RemoteFile]) -> dict[str, RemoteFile]:
        """The same, unless a name would lead out of the folder that it is fetched to."""
        for name in files:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                rule = "no name may lead out of its folder"
                raise self._refusal(ConfigError, name, rule, "rename it there")
        return files

    def _check_bucket(self) -> None:
        """A folder that is not there is an empty one; a bucket that is not there is an error."""
        if scheme(self.url) == "s3":
            self._fs.info(self._root.partition("/")[0])

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _told(self) -> AbstractContextManager[None]:
        return told(self.url, self.subject)

    def _refusal(
        self, kind: type[ConfigError] | type[RemoteError], seen: str, rule: str, fix: str
    ) -> ConfigError | RemoteError:
        return kind(self.subject, seen=f"{shown(self.url)}: {seen}", rule=rule, fix=fix)


def _file(info: dict[str, Any]) -> RemoteFile:
    version = next((info[key] for key in _VERSIONS if info.get(key)), "")
    if isinstance(version, datetime):  # a listing may have the same moment as a number
        version = version.timestamp()
    return RemoteFile(info["name"], info["size"], str(version))


def _callback(count: Count | None) -> Any:
    """What fsspec tells of bytes on their way."""
    from fsspec.callbacks import Callback  # see the module

    told = 0

    def tell(size: int | None, value: int, **_: object) -> None:
        nonlocal told
        if count is not None:
            count(value - told)
        told = value

    return Callback(hooks={"count": tell})


def _options(kind: str) -> dict[str, Any]:
    """What a file system is told: nothing may be remembered from one listing to the next."""
    fresh: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if kind == "s3":
        # s3fs tries again by itself; botocore below it only once, so that failures are known soon
        retries = {"retries": {"total_max_attempts": 2, "mode": "standard"}}
        return {**fresh, "max_concurrency": PARTS_AT_ONCE, "config_kwargs": retries}
    if kind in WEB:
        import aiohttp  # fsspec's own choice for the web; its limit of 5 minutes a file must go

        limits = aiohttp.ClientTimeout(
            total=None, sock_connect=_SILENCE_SECONDS, sock_read=_SILENCE_SECONDS
        )
        return {
            **fresh,
            "headers": {"Accept-Encoding": "identity"},  # sizes are of the file itself
            "client_kwargs": {"trust_env": True, "timeout": limits},
        }
    return {**fresh, "auto_mkdir": True} if kind == "file" else fresh
