"""Copies of checkpoints elsewhere (train.checkpoint.copyTo), as all ranks deal with them together.

The first rank's background makes them, and only its word counts; the others wait with it.
"""

from collections.abc import Callable
from pathlib import Path

from pangu_core.checkpoint.agreement import Failure, Gather, agree
from pangu_core.checkpoint.background import Task, Work, wait_for_all
from pangu_core.checkpoint.copier import Copied, Copier
from pangu_core.checkpoint.mirror import Mirror
from pangu_core.checkpoint.store import Store
from pangu_core.checkpoint.tensor_file import Tally
from pangu_core.config.stages import TrainConfig


class Copies:
    """One rank's part in the copies; without copyTo, nothing.

    Args:
        config: says where they go, and whose they are.
        store: the checkpoints in the workspace.
        gather: over the ranks of the world.
        rank: this one.
    """

    def __init__(self, config: TrainConfig, store: Store, *, gather: Gather, rank: int) -> None:
        self._url, self._run = config.train.checkpoint.copy_to, config.run
        self._store, self._gather, self._rank = store, gather, rank
        self._copier: Copier | None = None

    def bring_back(self, sign_of_life: Callable[[], None], *, only_if_lost: bool = False) -> bool:
        """Bring the newest whole copy back into the workspace; whether there was one.

        Args:
            sign_of_life: called about once a second while bytes come.
            only_if_lost: not where the workspace has a checkpoint.

        Raises:
            CheckpointError: all copies are damaged; on every rank, as the others.
            ConfigError: they are another run's, or something is missing to read them.
            RemoteError: nobody knows whether there are copies: starting anew might replace them.
            WorkspaceError: the volume refused, or another run or a newer attempt owns the folder.
        """
        url = self._url
        if url is None:
            return False

        def restore(tally: Tally) -> Path | None:
            if self._rank != 0 or (only_if_lost and any(self._store.candidates())):
                return None
            self._store.claim(self._run)
            return Mirror(url, count=tally).restore(self._store.root, self._run)

        task = Task(restore, name="restore")
        wait_for_all(task, self._gather, sign_of_life)
        return agree(task.outcome, self._gather)[0] is not None

    def start(self) -> None:
        """Copy what was left over, and from now on what is committed."""
        if self._url is not None and self._rank == 0:
            self._copier = Copier(self._store, self._run, self._url)
            self._copier.wake()

    def wake(self) -> None:
        """A checkpoint was committed or removed."""
        if self._copier is not None:
            self._copier.wake()

    def reports(self) -> list[Copied]:
        """What was copied since the last call, and what failed."""
        return self._copier.reports() if self._copier is not None else []

    def finish(self, sign_of_life: Callable[[], None], *, must_leave: Callable[[], bool]) -> bool:
        """Wait for the copy of the final checkpoint; False if a rank must leave before.

        Raises:
            ConfigError: it cannot be written there; on every rank.
            RemoteError: the network or the store failed, several times; on every rank.
        """
        if self._url is None:
            return True
        work: Work = self._copier or Task(lambda tally: None, name="copy")
        if not wait_for_all(work, self._gather, sign_of_life, must_leave=must_leave):
            return False
        failure = self._copier.failure if self._copier is not None else None
        agree(failure and _of_the_final(failure), self._gather)
        return True


def _of_the_final(failure: Failure) -> Failure:
    """The same, with what it means at the end of training."""
    fix = f"{failure.fix}: training is complete and its checkpoint is in the workspace, so only "
    return Failure(
        failure.kind, failure.subject, failure.seen, failure.rule, f"{fix}the copy is left to do"
    )
