"""Tells the story of a run in plain lines: one per change, and progress every 10 s."""

import time
from collections.abc import Callable, Sequence
from typing import Final, TextIO

from controller.story import Snapshot
from pangu_core.messages import Progress

PROGRESS_PERIOD_SECONDS: Final = 10.0


class PlainLines:
    """For pipes and log files."""

    def __init__(self, out: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._out, self._clock = out, clock
        self._last_progress: tuple[int, str] | None = None
        self._next_at = 0.0

    def tell(self, sentences: Sequence[str]) -> None:
        """Write each sentence as a line."""
        for sentence in sentences:
            self._out.write(f"{time.strftime('%H:%M:%S')} {sentence}\n")
        self._out.flush()

    def show(self, snapshot: Snapshot) -> None:
        """Write a line of progress if there is news and the last line is old enough."""
        progress, live = snapshot.progress, snapshot.status.attempt
        if progress is None or live is None or self._clock() < self._next_at:
            return
        news = (progress.step, progress.phase)
        if news != self._last_progress:
            self._last_progress = news
            self._next_at = self._clock() + PROGRESS_PERIOD_SECONDS
            self.tell([f"{live.stage}: {describe(progress)}"])


def describe(progress: Progress) -> str:
    """Progress in one line, e.g. ``step 40/300, loss 8.213, 1,900 tokens/s``."""
    if not progress.steps:
        return f"phase {progress.phase}"
    words = [f"step {progress.step}/{progress.steps}"]
    if progress.loss is not None:
        words.append(f"loss {progress.loss:.3f}")
    if progress.validation_loss is not None:
        words.append(f"validation loss {progress.validation_loss:.3f}")
    if progress.tokens_per_second is not None:
        words.append(f"{progress.tokens_per_second:,.0f} tokens/s")
    if progress.phase != "step":
        words.append(progress.phase)
    return ", ".join(words)
