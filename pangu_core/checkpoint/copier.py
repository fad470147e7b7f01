"""Keeps the copies elsewhere like the checkpoints here, on a thread beside training."""

import logging
import queue
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

from pangu_core.checkpoint import durable
from pangu_core.checkpoint.agreement import Failure, attempt
from pangu_core.checkpoint.manifest import FILE_NAME
from pangu_core.checkpoint.mirror import Mirror
from pangu_core.checkpoint.store import Store
from pangu_core.config.stages import RunIdentity

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Copied:
    """What became of one turn: a checkpoint copied, or an error."""

    seconds: float
    folder: str | None = None
    error: str | None = None


class Copier:
    """Copies what was committed and removes what is not kept any more, whenever it is woken.

    Each turn brings all of the folder elsewhere in line, so one that failed is made up for by the
    next. A failure is a warning and a report; ``failure`` holds the latest turn's.

    Args:
        store: the checkpoints.
        run: whose they are; copies of another run are never touched.
        url: where the copies go.
    """

    def __init__(self, store: Store, run: RunIdentity, url: str) -> None:
        self.num_bytes = 0
        self.failure: Failure | None = None
        self._store, self._run, self._url = store, run, url
        self._mirror: Mirror | None = None
        self._copied: dict[str, str] = {}  # folder -> SHA-256 of its manifest
        self._turns: queue.Queue[None] = queue.Queue()
        self._reports: queue.SimpleQueue[Copied] = queue.SimpleQueue()
        Thread(target=self._work, name="copy", daemon=True).start()

    def wake(self) -> None:
        """Something has changed here: look."""
        self._turns.put(None)

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        return self._turns.unfinished_tasks == 0

    def wait(self, seconds: float) -> None:
        """Return when nothing is left to do, or after so many seconds."""
        with self._turns.all_tasks_done:
            self._turns.all_tasks_done.wait_for(lambda: self.is_over, seconds)

    def reports(self) -> list[Copied]:
        """What became of the turns since the last call."""
        found = []
        while not self._reports.empty():
            found.append(self._reports.get())
        return found

    def _work(self) -> None:
        while True:
            self._turns.get()
            while not self._turns.empty():  # one turn does for all that woke it
                self._turns.get()
                self._turns.task_done()
            self._take_turn()
            self._turns.task_done()

    def _take_turn(self) -> None:
        began = time.monotonic()
        outcome = attempt(self._mend)
        self.failure = outcome if isinstance(outcome, Failure) else None
        if self.failure is not None:
            error = str(self.failure.error())
            logger.warning("no copy of the newest checkpoint: %s", error)
            self._reports.put(Copied(time.monotonic() - began, error=error))

    def _mend(self) -> None:
        """Make the copies those of the checkpoints here, the newest first."""
        self._store.check_claim(self._run)
        if self._mirror is None:
            mirror = Mirror(self._url, count=self._count)
            mirror.check_owner(self._run)
            self._mirror = mirror
        whole = [folder for folder in self._store.candidates() if not _is_aside(folder)]
        for folder in whole:
            self._copy(self._mirror, folder)
        if whole:  # a folder that was emptied is no reason to empty the other
            # What is damaged here stays there: it may be all that is left of it.
            self._mirror.prune({path.name for path in self._store.root.iterdir()})

    def _copy(self, mirror: Mirror, folder: Path) -> None:
        began = time.monotonic()
        try:
            digest = durable.file_sha256(folder / FILE_NAME)
            if self._copied.get(folder.name) == digest:
                return
            if mirror.push(folder):
                self._reports.put(Copied(time.monotonic() - began, folder=folder.name))
            self._copied[folder.name] = digest
        except Exception:
            if folder.is_dir():
                raise
            logger.info("%s is not kept any more: it is not copied", folder.name)

    def _count(self, num_bytes: int) -> None:
        self.num_bytes += num_bytes


def _is_aside(folder: Path) -> bool:
    return folder.name.startswith(durable.REPLACED_PREFIX)
