"""Shows a run as a live table on a terminal: stages, progress bar, loss, speed, restarts."""

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType
from typing import Final, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from controller.observe import JobView
from controller.story import Snapshot
from controller.transitions import duration
from k8s.status import JobStatus, StageStatus
from pangu_core.messages import Progress

STYLES: Final = {"Succeeded": "green", "Skipped": "green", "Running": "cyan", "Failed": "red"}
VALIDATION: Final = "validation"
# Column -> least width; on a narrow terminal only progress gives way.
COLUMNS: Final[dict[str, int | None]] = {
    "stage": 10,
    "state": 9,
    "attempt": 7,
    "progress": None,
    "loss": 6,
    VALIDATION: 10,
    "tokens/s": 9,
    "left": 7,
}
BAR_WIDTH: Final = 24


class LiveTable:
    """A reporter for terminals; a context manager, so that the terminal is left in order."""

    def __init__(self, console: Console, view: JobView) -> None:
        self._view = view
        self._live = Live(console=console, refresh_per_second=8, transient=False)

    def __enter__(self) -> Self:
        """Start drawing."""
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop drawing; the last picture stays."""
        self._live.stop()

    def tell(self, sentences: Sequence[str]) -> None:
        """Write each sentence above the table."""
        for sentence in sentences:
            self._live.console.print(Text(sentence, style="dim"))

    def show(self, snapshot: Snapshot) -> None:
        """Draw the table anew."""
        self._live.update(picture(snapshot, self._view))


def picture(snapshot: Snapshot, view: JobView) -> RenderableType:
    """The table of stages with one line about the job below it."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    validated = bool(snapshot.progress and snapshot.progress.validation_loss is not None)
    for name, width in COLUMNS.items():
        if validated or name != VALIDATION:
            table.add_column(name, no_wrap=width is not None, min_width=width)
    status = snapshot.status
    for plan in view.stages:
        table.add_row(*_row(status.stage(plan.name), snapshot, view, validated=validated))
    return Group(table, _footer(snapshot, view))


def _row(
    stage: StageStatus, snapshot: Snapshot, view: JobView, *, validated: bool
) -> list[RenderableType]:
    style = STYLES.get(stage.state, "dim")
    live = snapshot.status.attempt
    is_live = live is not None and live.stage == stage.name
    state: RenderableType = Text(stage.state.lower(), style=style)
    if is_live:
        state = Spinner("dots", text=Text("running", style=style))
    attempt = str(stage.attempt or "")
    progress = snapshot.progress if is_live else None
    if progress is None or not progress.steps:
        words = duration(stage) if stage.is_done else progress.phase if progress else ""
        return [Text(stage.name), state, attempt, Text(words, style="dim")]
    tokens = next((p.tokens_per_step for p in view.stages if p.name == stage.name), None)
    bar = Table.grid(padding=(0, 1))
    bar.add_column(max_width=BAR_WIDTH)
    bar.add_column(no_wrap=True)
    bar.add_row(
        ProgressBar(total=progress.steps, completed=progress.step),
        f"{progress.step}/{progress.steps}",
    )
    return [
        Text(stage.name),
        state,
        attempt,
        bar,
        _number(progress.loss, ".3f"),
        *([_number(progress.validation_loss, ".3f")] if validated else []),
        _number(progress.tokens_per_second, ",.0f"),
        time_left(progress, tokens),
    ]


def _footer(snapshot: Snapshot, view: JobView) -> Text:
    status = snapshot.status
    words = [f"{view.name}: {status.phase.lower()}"]
    causes = Counter(status.restarts)
    if snapshot.progress:
        causes.update(snapshot.progress.restarts)
    if causes:
        words.append("restarts " + ", ".join(f"{k} {n}" for k, n in sorted(causes.items())))
    if status.charges:
        words.append(f"budget {len(status.charges)}/{view.restart_limit}")
    words += _waiting(status, snapshot)
    return Text("; ".join(words), style="red" if status.phase == "Failed" else "bold")


def _waiting(status: JobStatus, snapshot: Snapshot) -> list[str]:
    if status.phase == "Suspending":
        deadlines = [p.kill_at for a in snapshot.attempts for p in a.pods if p.kill_at is not None]
        left = max(deadlines, default=snapshot.now) - snapshot.now
        return [f"pods have {max(0, left):.0f} s to save; Ctrl-C again kills them"]
    if status.retry_at is not None and status.attempt is None:
        return [f"next attempt in {max(0, status.retry_at - snapshot.now):.0f} s"]
    return []


def time_left(progress: Progress, tokens_per_step: int | None) -> str:
    """Time to the last step at the present speed, as h:mm:ss; empty if unknown."""
    if not progress.tokens_per_second or not tokens_per_step:
        return ""
    left = (progress.steps - progress.step) * tokens_per_step / progress.tokens_per_second
    return str(timedelta(seconds=round(max(0.0, left))))


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
