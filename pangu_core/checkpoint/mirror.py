"""Copies of checkpoints elsewhere: a second line, should the workspace be lost.

s3://bucket/prefix/
  step-00000300/model-00000.safetensors, ..., and last manifest.json: the copy's commit
"""

import logging
import re
import time
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from pangu_core.checkpoint import durable
from pangu_core.checkpoint.manifest import FILE_NAME, parse
from pangu_core.checkpoint.reader import Checkpoint
from pangu_core.config.stages import RunIdentity
from pangu_core.errors import CheckpointError, ConfigError
from pangu_core.remote.address import WEB, scheme, shown
from pangu_core.remote.copying import copy_folder
from pangu_core.remote.faults import retrying
from pangu_core.remote.files import Remote

SUBJECT: Final = "train.checkpoint.copyTo"
_STEP_FOLDER: Final = re.compile(r"step-\d{8,}")
T = TypeVar("T")
logger = logging.getLogger(__name__)


def uncounted(num_bytes: int) -> None:
    """The count that nobody keeps."""


class Mirror:
    """A folder of copies elsewhere.

    Args:
        url: its address: s3://bucket/prefix, file:///folder, ...
        count: is told of bytes that move either way, and of every try.
        sleep: waits between two tries.

    Raises:
        ConfigError: the address cannot be written to.
    """

    def __init__(
        self,
        url: str,
        *,
        count: Callable[[int], None] = uncounted,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        if scheme(url) in WEB:
            rule, fix = "cannot be written to", "use s3://, or a volume by file://"
            raise ConfigError(SUBJECT, seen=shown(url), rule=rule, fix=fix)
        self.url = url
        self._count, self._sleep = count, sleep
        self._remote = Remote(url, subject=SUBJECT)

    def names(self) -> list[str]:
        """The copies that are whole, newest first."""
        found = {name.partition("/")[0] for name in self._files() if name.endswith(f"/{FILE_NAME}")}
        return sorted(found, key=lambda name: int(name.partition("-")[2]), reverse=True)

    def newest(self) -> str | None:
        """The newest copy that is whole."""
        return next(iter(self.names()), None)

    def check_owner(self, run: RunIdentity) -> None:
        """Refuse a folder that holds the copies of another run.

        Raises:
            ConfigError: it does.
        """
        name = self.newest()
        if name is None:
            return
        owner = parse(self._manifest(name), f"{self.url}/{name}").run
        if not run.may_continue(uid=owner.uid, name=owner.name):
            raise ConfigError(
                SUBJECT,
                seen=f"{shown(self.url)}: holds copies of run {owner.name} ({owner.uid})",
                rule=f"run {run.name} ({run.uid}) must not go on from another's copies, "
                "nor replace them",
                fix="name another folder, or remove those copies",
            )

    def push(self, folder: Path) -> bool:
        """Copy a checkpoint, its manifest last; whether that was still to be done.

        Raises:
            ConfigError: something is missing to write there.
            RemoteError: the network or the store failed, several times.
            OSError: the checkpoint could not be read; perhaps it is not kept any more.
        """
        manifest = (folder / FILE_NAME).read_bytes()
        if folder.name in self.names() and self._manifest(folder.name) == manifest:
            return False
        self._remove(folder.name)  # a copy of other contents, or half of one
        below = f"{folder.name}/"
        copy_folder(
            folder,
            self._remote,
            last={FILE_NAME},
            below=below,
            count=self._count,
            sleep=self._pause,
        )
        return True

    def prune(self, keep: Collection[str]) -> None:
        """Remove the copies that are not among these names, halves of copies too."""
        for name in sorted({path.partition("/")[0] for path in self._files()}.difference(keep)):
            self._remove(name)

    def fetch(self, name: str, into: Path) -> Path:
        """Bring a copy back into a folder of checkpoints; returns its folder.

        It is read against its hashes before it gets its name; a folder of that name is replaced.

        Raises:
            CheckpointError: the copy is damaged.
            RemoteError: the network or the store failed, several times.
            OSError: the volume refused.
        """
        temporary = durable.new_temporary(into, name)
        try:
            for path in self._files():
                below, _, file = path.partition("/")
                if below == name:
                    self._try(partial(self._remote.download, path, temporary / file, self._count))
            errors = Checkpoint.open(temporary).verify(lambda done, _: self._count(1))
            if errors:
                raise errors[0]
            durable.publish(temporary, into / name)
        finally:
            durable.remove_folder(temporary)  # renamed by now, if all went well
        return into / name

    def restore(self, into: Path, run: RunIdentity) -> Path | None:
        """Bring back the newest copy that is not damaged; None if there are no copies.

        Raises:
            CheckpointError: there are copies, but all are damaged: the newest's error.
            ConfigError: they are another run's.
        """
        newest: CheckpointError | None = None
        self.check_owner(run)
        for name in self.names():
            logger.info("fetching %s from %s", name, shown(self.url))
            try:
                return self.fetch(name, into)
            except CheckpointError as error:
                logger.warning("skipped %s, trying the copy before: %s", name, error)
                newest = newest or error
        if newest is not None:
            raise newest
        return None

    def _manifest(self, name: str) -> bytes:
        return self._try(partial(self._remote.read, f"{name}/{FILE_NAME}"))

    def _files(self) -> list[str]:
        """All files that are of copies, whole or not, by their path."""
        paths = self._try(self._remote.files)
        return [path for path in paths if _STEP_FOLDER.fullmatch(path.partition("/")[0])]

    def _remove(self, name: str) -> None:
        """Remove a copy, its manifest first."""
        paths = [path for path in self._files() if path.partition("/")[0] == name]
        for path in sorted(paths, key=lambda path: (not path.endswith(f"/{FILE_NAME}"), path)):
            self._try(partial(self._remote.remove, path))

    def _try(self, work: Callable[[], T]) -> T:
        return retrying(work, sleep=self._pause)

    def _pause(self, seconds: float) -> None:
        self._count(1)  # it is alive, and patient
        self._sleep(seconds)
