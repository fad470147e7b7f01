"""Saves checkpoints while training goes on: one at a time, agreed by all ranks at step boundaries.

``begin`` copies this rank's state and starts a thread that writes the shard. When no rank's thread
is busy any more, which the ranks find out in the reduction that every step makes anyway, all of
them call ``advance``: it collects the shards' slices, and the first rank's thread commits. The next
time it brings the result. So all collectives are the main thread's, and the same on every rank.
docs/adr/0007-asynchronous-saves.md says why.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pangu_core.checkpoint import durable
from pangu_core.checkpoint.agreement import Gather, agree, alone, together
from pangu_core.checkpoint.background import Task, wait_for_all
from pangu_core.checkpoint.manifest import Header, StoredSlice
from pangu_core.checkpoint.reader import unseen
from pangu_core.checkpoint.staging import Staged, Staging
from pangu_core.checkpoint.tensor_file import Tally
from pangu_core.checkpoint.writer import Piece, write_shard

if TYPE_CHECKING:  # the store offers a save that waits, made of this one
    from pangu_core.checkpoint.store import Store


@dataclass(frozen=True)
class Saved:
    """A committed checkpoint."""

    folder: Path
    manifest_sha256: str


@dataclass(frozen=True)
class Request:
    """What to save besides the tensors."""

    step: int
    header: Header
    vocabulary: Path | None = None


@dataclass(frozen=True)
class Finished:
    """A save that is over."""

    step: int
    saved: Saved
    seconds: float  # from begin to commit
    stall_seconds: float  # for which it kept training waiting


def nothing_more(saved: Saved) -> None:
    """What follows a commit if nothing does."""


@dataclass(frozen=True)
class _Shard:
    """What one rank wrote."""

    slices: list[StoredSlice]
    copy_seconds: float  # from begin until a GPU had copied its part


@dataclass
class _Flight:
    """The save that is under way."""

    request: Request
    temporary: Path
    began: float
    task: Task
    is_committing: bool = False
    stall_seconds: float = 0.0


class Saver:
    """This rank's part in saving.

    Args:
        store: the folder of checkpoints.
        gather: over the ranks of the world.
        rank: this one; the first commits.
        staging: memory for the copies; None: every save is written within ``begin``.
        after_commit: the first rank's thread calls it for each committed checkpoint; if it
            fails, the save has failed.
        sign_of_life: called about once a second while a rank waits and bytes are written.
    """

    def __init__(
        self,
        store: "Store",
        *,
        gather: Gather = alone,
        rank: int = 0,
        staging: Staging | None = None,
        after_commit: Callable[[Saved], None] = nothing_more,
        sign_of_life: Callable[[], None] = unseen,
    ) -> None:
        self._store, self._gather, self._rank = store, gather, rank
        self._staging, self._after_commit = staging, after_commit
        self._sign_of_life = sign_of_life
        self._flight: _Flight | None = None

    @property
    def in_flight(self) -> bool:
        """Whether a save is under way; the same on all ranks."""
        return self._flight is not None

    @property
    def is_idle(self) -> bool:
        """Whether this rank has nothing to do in the background."""
        return self._flight is None or self._flight.task.is_over

    def begin(self, request: Request, pieces: Sequence[Piece], *, staged: bool = True) -> None:
        """Start a save with all ranks; returns when the pieces may be changed again.

        Args:
            request: the same on all ranks.
            pieces: what this rank stores.
            staged: False: write from the originals, which is what the last save wants.

        Raises:
            WorkspaceError: the volume refused, or a newer attempt owns the folder; on every rank.
        """
        assert self._flight is None
        began = time.monotonic()
        temporary, copies, has_direct = self._prepare(request, pieces, staged=staged)

        def write(tally: Tally) -> _Shard:
            copies.wait()
            copy_seconds = time.monotonic() - began
            return _Shard(write_shard(temporary, self._rank, copies.pieces, tally), copy_seconds)

        self._flight = _Flight(request, temporary, began, Task(write, name="save"))
        if has_direct:
            self._wait(self._flight.task)
        self._flight.stall_seconds = time.monotonic() - began

    def advance(self) -> Finished | None:
        """Take the next step of a save, with all ranks and when all are idle.

        Returns what was saved when it is over, None while it is not.

        Raises:
            WorkspaceError: the volume refused, or a newer attempt owns the folder; on every rank.
            CheckpointError: the pieces do not make up the model; on every rank.
        """
        flight, now = self._flight, time.monotonic()
        assert flight is not None
        assert flight.task.is_over
        try:
            results = agree(flight.task.outcome, self._gather)
        except Exception:
            self._flight = None
            self._remove(flight.temporary)
            raise
        if flight.is_committing:
            self._flight = None
            saved, seconds = results[0]
            stall_seconds = flight.stall_seconds + time.monotonic() - now
            return Finished(flight.request.step, saved, seconds, stall_seconds)
        copy_seconds = results[self._rank].copy_seconds
        flight.task, flight.is_committing = self._committing(flight, results), True
        waited = max(flight.stall_seconds, copy_seconds)
        flight.stall_seconds = waited + time.monotonic() - now
        return None

    def finish(self) -> Finished:
        """Wait, with all ranks, for the save that is under way.

        Raises:
            PanguError: as ``advance``.
        """
        while True:
            assert self._flight is not None
            self._wait(self._flight.task)
            finished = self.advance()
            if finished is not None:
                return finished

    def _prepare(
        self, request: Request, pieces: Sequence[Piece], *, staged: bool
    ) -> tuple[Path, Staged, bool]:
        """The temporary folder, what this rank writes, and whether any rank writes originals."""
        folder: Path | None = None
        copies: Staged | None = None

        def prepare() -> tuple[Path | None, bool]:
            nonlocal folder, copies
            if self._rank == 0:
                folder = self._store.begin(request.step, request.header.run)
            if staged and self._staging is not None:
                copies = self._staging.copy(pieces)
            return folder, copies is None

        try:
            outcomes = together(prepare, self._gather)
        except Exception:
            self._remove(folder)
            raise
        temporary = outcomes[0][0]
        assert temporary is not None
        return temporary, copies or Staged(pieces), any(direct for _, direct in outcomes)

    def _committing(self, flight: _Flight, shards: Sequence[_Shard]) -> Task:
        def commit(tally: Tally) -> tuple[Saved, float] | None:
            if self._rank != 0:
                return None
            slices = [stored for shard in shards for stored in shard.slices]
            saved = self._store.commit(flight.temporary, flight.request, slices)
            seconds = time.monotonic() - flight.began
            self._after_commit(saved)
            return saved, seconds

        return Task(commit, name="save")

    def _wait(self, task: Task) -> None:
        """Return when all ranks are idle."""
        wait_for_all(task, self._gather, self._sign_of_life)

    def _remove(self, temporary: Path | None) -> None:
        if self._rank == 0 and temporary is not None:
            durable.remove_folder(temporary)
