"""Follows a job in a cluster until it has ended: a live table on a terminal, lines elsewhere."""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Final

from controller.cluster.access import get_job
from controller.cluster.api import Api
from controller.jobs import job_view
from controller.observe import JobView
from controller.plain_lines import PlainLines
from controller.story import Reporter, Snapshot
from controller.transitions import transitions
from k8s.spec import read_job
from k8s.status import JobStatus, from_dict

PERIOD_SECONDS: Final = 1.0


def follow(api: Api, name: str) -> int:
    """Show a job until it has ended or is suspended; returns its exit code.

    Raises:
        ConfigError: the job is gone.
        ApiError: the server cannot be asked.
    """
    item = get_job(api, name)
    view = job_view(read_job(item))
    before = JobStatus()
    with _reporter(view) as reporter:
        while True:
            status = from_dict(item.get("status") or {})
            reporter.tell([change.text for change in transitions(before, status)])
            reporter.tell(_troubles(before, status))
            reporter.show(Snapshot(status, (), time.time()))
            if status.is_terminal:
                return status.exit_code or 0
            before = status
            time.sleep(PERIOD_SECONDS)
            item = get_job(api, name)


def _troubles(before: JobStatus, after: JobStatus) -> list[str]:
    """Why the job cannot go on, each time the reason changes."""
    lines = []
    for kind in ("Accepted", "Scheduled"):
        now, then = after.condition(kind), before.condition(kind)
        if (
            now
            and now.status == "False"
            and now.message
            and (not then or then.message != now.message)
        ):
            lines.append(f"{kind.lower()}: no ({now.reason}): {now.message}")
    return lines


@contextlib.contextmanager
def _reporter(view: JobView) -> Iterator[Reporter]:
    if not sys.stdout.isatty():
        yield PlainLines(sys.stdout)
        return
    # Imported here: rich is for terminals only, and slow to import.
    from rich.console import Console

    from controller.live_table import LiveTable

    with LiveTable(Console(), view) as table:
        yield table
