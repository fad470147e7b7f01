"""Progress of long work: a bar on a terminal, a line for every tenth elsewhere."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """Give a function that is called with (bytes done, bytes in all)."""
    if not sys.stderr.isatty():
        yield _lines(title)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines(title: str) -> Callable[[int, int], None]:
    reported = 0

    def report(done: int, total: int) -> None:
        nonlocal reported
        tenth = 10 * done // max(total, 1)
        if tenth > reported:
            reported = tenth
            logger.info("%s: %d %% of %.1f MB", title, 10 * tenth, total / 1e6)

    return report
