"""A folder of training checkpoints: save, find the newest, step back, keep few.

checkpoints/
  owner.json           the fence (ownership.py), unless the run's folder has it
  latest               JSON, for people and tools: step, folder, attempt
  failures.json        if training failed from the newest one (setbacks.py)
  step-00000300/       whole, or not there at all
  tmp-step-00000600-2-5c1f.../   being written; a dead attempt's is removed at the next save
"""

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from pangu_core.checkpoint import durable, ownership, setbacks
from pangu_core.checkpoint.agreement import Failure, Gather, alone, attempt, together
from pangu_core.checkpoint.manifest import FILE_NAME, Header, Manifest, StoredSlice, read_manifest
from pangu_core.checkpoint.reader import Checkpoint
from pangu_core.checkpoint.retention import Candidate, Rules, superfluous
from pangu_core.checkpoint.saver import Request, Saved, Saver
from pangu_core.checkpoint.writer import Piece, commit
from pangu_core.config.stages import RunIdentity
from pangu_core.errors import CheckpointError

STAGE: Final = "train"  # which writes here
LATEST_FILE: Final = "latest"
_STEP_FOLDER: Final = re.compile(rf"(?:{durable.REPLACED_PREFIX})?step-(\d{{8,}})")
T = TypeVar("T")
logger = logging.getLogger(__name__)


class Store:
    """The checkpoints of one run.

    Args:
        root: the folder of checkpoints.
        fence: the folder whose ``owner.json`` says who may write: the run's, or ``root`` itself.
    """

    def __init__(self, root: Path, *, fence: Path | None = None) -> None:
        self.root = root
        self.fence = fence or root
        self._token = ""  # of this process's claim

    def claim(self, run: RunIdentity) -> None:
        """Record that this process's world writes here from now on; earlier ones are shut out.

        One process of the world calls it before it loads; the first save does it otherwise.

        Raises:
            WorkspaceError: another run or a newer attempt owns the folder.
        """
        self._token = ownership.claim(self.fence, run, STAGE)
        self.root.mkdir(parents=True, exist_ok=True)

    def check_claim(self, run: RunIdentity) -> None:
        """Refuse if the claim of this process's world does not hold any more.

        Raises:
            WorkspaceError: another run or a newer attempt owns the folder.
            RendezvousError: a later round of this attempt does.
        """
        ownership.check(self.fence, run, STAGE, token=self._token)

    def save(
        self,
        step: int,
        pieces: Sequence[Piece],
        header: Header,
        *,
        vocabulary: Path | None = None,
        gather: Gather = alone,
        rank: int = 0,
    ) -> Saved:
        """Write a checkpoint; every rank of the world calls it with its own pieces.

        The folder appears when all of it is on the disk; until then, and if any rank fails, the
        checkpoints before stay as they are. A checkpoint of the same step is replaced.

        Raises:
            WorkspaceError: the volume is full or read-only, or a newer attempt owns the folder;
                raised on every rank.
            CheckpointError: the pieces do not make up the model; raised on every rank.
        """
        saver = Saver(self, gather=gather, rank=rank)
        saver.begin(Request(step, header, vocabulary), pieces)
        return saver.finish().saved

    def begin(self, step: int, run: RunIdentity) -> Path:
        """Claim the folder, and make an empty one for the shards of a new checkpoint.

        Raises:
            WorkspaceError: another run or a newer attempt owns the folder.
            RendezvousError: a later round of this attempt does.
        """
        if self._token:
            self.check_claim(run)
        else:
            self.claim(run)
        durable.remove_temporaries(self.root)
        return durable.new_temporary(self.root, f"step-{step:08d}-{run.attempt}")

    def commit(self, temporary: Path, request: Request, slices: Iterable[StoredSlice]) -> Saved:
        """Make a checkpoint of a folder in which all shards are.

        Raises:
            WorkspaceError: another run or a newer attempt owns the folder.
            RendezvousError: a later round of this attempt does.
            CheckpointError: the slices do not make up the model.
            OSError: the volume refused.
        """
        run, step = request.header.run, request.step
        self.check_claim(run)
        final = self.root / f"step-{step:08d}"
        digest = commit(
            temporary,
            final,
            header=request.header,
            step=step,
            slices=slices,
            vocabulary=request.vocabulary,
        )
        setbacks.forget(self.root)
        latest = {"step": step, "folder": final.name, "attempt": run.attempt}
        durable.replace_json(self.root / LATEST_FILE, latest)
        return Saved(final, digest)

    def candidates(self) -> Iterator[Path]:
        """Folders that look whole, newest first; the others are named in the log."""
        return (folder for folder, _ in self._whole())

    def prune(self, keep: int, *, keep_every: int | None = None, keep_best: int = 0) -> None:
        """Remove the checkpoints that no rule keeps (retention.py); damaged ones stay."""
        rules = Rules(keep, keep_every, keep_best)
        found = [
            Candidate(folder.name, manifest.step, manifest.final, manifest.validation_loss)
            for folder, manifest in self._whole()
        ]
        for candidate in superfluous(found, rules):
            durable.remove_folder(self.root / candidate.name)

    def has_folders(self) -> bool:
        """Whether any checkpoint was ever committed here, damaged or not."""
        return bool(self._folders())

    def _folders(self) -> list[Path]:
        """Committed folders, newest step first; one that was being replaced comes second."""
        found = []
        for path in self.root.iterdir() if self.root.is_dir() else ():
            match = _STEP_FOLDER.fullmatch(path.name)
            if match:
                found.append((int(match[1]), path.name.startswith("step-"), path))
        return [path for _, _, path in sorted(found, reverse=True)]

    def _whole(self) -> Iterator[tuple[Path, Manifest]]:
        for folder in self._folders():
            try:
                manifest, _ = read_manifest(folder)
            except CheckpointError as error:
                logger.warning("skipped %s: %s", folder.name, error)
            else:
                yield folder, manifest


def load_newest(
    store: Store, load: Callable[[Checkpoint], T], *, gather: Gather = alone, rank: int = 0
) -> T | None:
    """Load the newest checkpoint that every rank can load; None if none was ever saved.

    A damaged one is named in the log and all ranks step back to the one before together. All
    ranks follow the first rank's list, so that none loads another step.

    Raises:
        CheckpointError: there are checkpoints, but none that can be trusted: the newest's error.
        PanguError: something else failed on some rank; raised on every rank.
    """
    candidates = store.candidates() if rank == 0 else iter(())
    newest: Failure | None = None
    while folder := together(lambda: next(candidates, None), gather)[0]:
        result = attempt(partial(_open_and_load, store.root / folder.name, load))
        failures = [f for f in gather(result if isinstance(result, Failure) else None) if f]
        if not failures:
            assert not isinstance(result, Failure)
            return result
        for failure in failures:
            if failure.kind is not CheckpointError:
                raise failure.error()
        newest = newest or failures[0]
        logger.warning("skipped %s, trying the one before: %s", folder.name, failures[0].error())
    if newest is not None:
        raise newest.error()
    if any(together(store.has_folders, gather)):
        raise CheckpointError(
            str(store.root),
            seen="only checkpoints whose manifest is missing or damaged",
            rule="must hold one that can be trusted",
            fix="restore one from a copy, or delete them to start again",
        )
    return None


def _open_and_load(folder: Path, load: Callable[[Checkpoint], T]) -> T:
    return load(Checkpoint.open(folder))


def holds_checkpoint(path: Path) -> bool:
    """Whether a folder is a checkpoint or a folder of them, damaged or not."""
    return (path / FILE_NAME).is_file() or Store(path).has_folders()


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that a path means: itself, or the newest in a folder of checkpoints.

    Raises:
        CheckpointError: there is none.
    """
    if (path / FILE_NAME).is_file():
        return path
    newest = next(Store(path).candidates(), None)
    if newest is None:
        raise CheckpointError(
            str(path),
            seen="no checkpoint",
            rule="must be a checkpoint folder or a folder of checkpoints",
            fix="check the path",
        )
    return newest
