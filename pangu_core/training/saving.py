"""When checkpoints are saved, and what the loop knows of those that were."""

import logging
from collections.abc import Callable

from pangu_core.checkpoint.saver import Finished, Saved
from pangu_core.training.heartbeat import Heartbeat
from pangu_core.training.session import Resumed, Session
from pangu_core.training.state import Position
from pangu_core.training.step import StepResult

logger = logging.getLogger(__name__)


class Saving:
    """The saves of one round; every method but ``is_idle`` is called by all ranks together.

    Args:
        session: what is saved.
        heartbeat: hears of it.
        write: writes an event to the metrics.
    """

    def __init__(
        self, session: Session, *, heartbeat: Heartbeat, write: Callable[..., None]
    ) -> None:
        self._session, self._heartbeat, self._write = session, heartbeat, write
        self._saver = session.saver(heartbeat.alive)
        self._origin: Resumed | None = None  # until a checkpoint was committed after it
        self._saved: Saved | None = None  # the newest whole one, if nothing is missing in it
        self._saved_step = 0
        self._validation_loss: float | None = None
        self._is_due = False
        self._is_warned = False

    @property
    def is_idle(self) -> bool:
        """Whether this rank has nothing to do in the background."""
        return self._saver.is_idle

    def resume(self, position: Position, resumed: Resumed | None) -> None:
        """Begin where a checkpoint ended."""
        self._origin = resumed
        if resumed is not None:
            self._saved_step = position.step
            self._saved = resumed.checkpoint if resumed.is_final else None
            self._validation_loss = resumed.validation_loss

    def evaluated(self, loss: float) -> None:
        """Remember the newest validation loss, for the checkpoints that follow."""
        self._validation_loss = loss

    def advance(self, *, are_all_idle: bool) -> bool:
        """Go on with a save if all ranks agreed that they can; whether there was one to go on with."""
        self._report_copies()
        if not (self._saver.in_flight and are_all_idle):
            return False
        self._take_in(self._saver.advance())
        return True

    def save_when_due(self, position: Position, result: StepResult) -> bool:
        """Begin a save if one is due; whether it was.

        A step without an update has nothing to save, and might be one of many that end in an
        error: the save waits for the next update. So does one that meets the save before it.
        """
        plan, settings = self._session.plan, self._session.config.train.checkpoint
        self._is_due = self._is_due or position.step % settings.every_steps == 0
        if not self._is_due or not result.is_applied or position.step == plan.steps:
            return False  # the last step is saved at the end, when nothing goes on beside it
        if self._saver.in_flight:
            self._warn_once(settings.every_steps)
            self._finish()
        self._begin(position, staged=settings.asynchronous)
        self._is_due = False
        return True

    def save_now(self, position: Position) -> None:
        """Have the present state on the disk, for training stops here."""
        if self._saver.in_flight:
            self._finish()
        if position.step not in (0, self._saved_step):
            self._begin(position, staged=False)
            self._finish()

    def save_final(self, position: Position) -> Saved:
        """Have the final checkpoint on the disk."""
        self.save_now(position)
        if self._saved is None:  # resumed at the last step, from what was not known to be the last
            self._begin(position, staged=False)
            self._finish()
        assert self._saved is not None
        return self._saved

    def finish_copies(self, must_leave: Callable[[], bool]) -> bool:
        """Wait for the final checkpoint's copy elsewhere; False if a rank must leave before."""
        try:
            return self._session.copies.finish(self._heartbeat.alive, must_leave=must_leave)
        finally:
            self._report_copies()

    def record_failure(self, error: Exception) -> None:
        """Training failed; remember it if no checkpoint was committed since the one resumed from."""
        if self._origin is not None:
            self._session.record_failure(self._origin, str(error))

    def _begin(self, position: Position, *, staged: bool) -> None:
        self._heartbeat.beat("save")
        request = self._session.request(position, validation_loss=self._validation_loss)
        self._saver.begin(request, self._session.pieces(), staged=staged)

    def _finish(self) -> None:
        self._heartbeat.beat("save")
        self._take_in(self._saver.finish())

    def _take_in(self, finished: Finished | None) -> None:
        if finished is None:
            return
        self._saved, self._saved_step, self._origin = finished.saved, finished.step, None
        self._write(
            "save",
            step=finished.step,
            seconds=finished.seconds,
            stall_seconds=finished.stall_seconds,
        )

    def _report_copies(self) -> None:
        for copied in self._session.copies.reports():
            step = int(copied.folder.partition("-")[2]) if copied.folder else None
            self._write("copy", copied_step=step, seconds=copied.seconds, error=copied.error)

    def _warn_once(self, every_steps: int) -> None:
        if not self._is_warned and self._session.place.is_first:
            logger.warning(
                "a save takes longer than the %d steps to the next one: training waits for it; "
                "raise train.checkpoint.everySteps, or use a faster volume",
                every_steps,
            )
        self._is_warned = True
