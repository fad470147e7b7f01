"""The command: ``python -m bench.elastic``, from the checkout.

Starts gangs of up to four pods on this machine, strikes, and prints one table. The measured pods
use the defaults of both stacks. Ours are measured one after the other. A stock gang that only
waits lets the next one be measured meanwhile (--alone: it does not).
"""

import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import click

import pangu_core
from bench.elastic import report, schedules
from bench.elastic.cases import CASES, Case
from bench.elastic.measuring import CancelledError, Result, Trial, Turn
from bench.elastic.stacks import STACKS, Stack

Work = tuple[Case, Stack, int]
# A stock gang that waited this long is likely to wait for more than a minute, idle.
PATIENCE_SECONDS: Final = 12.0
LANES: Final = 4


def measure(
    work: Sequence[Work], folder: Path, *, limit_seconds: float, turn: Turn
) -> list[Result]:
    """Measure, in as many lanes as the turn's patience allows; tell of each result."""
    found: dict[int, Result] = {}
    pool = ThreadPoolExecutor(LANES if turn.patience_seconds else 1)
    try:
        futures = {}
        for index, (case, stack, run) in enumerate(work):
            trial = Trial(case, stack, limit_seconds=limit_seconds, turn=turn)
            place = folder / f"{stack.name}-{case.name}-{run}"
            futures[pool.submit(trial.run, place)] = index
        for future in as_completed(futures):
            case, stack, _ = work[futures[future]]
            result = found[futures[future]] = future.result()
            words = report.describe(result, limit_seconds)
            say(f"{len(found)} of {len(work)}: {stack.title}: {case.title}: {words}")
    except BaseException:
        turn.cancelled.set()
        raise
    finally:
        pool.shutdown(cancel_futures=True)  # waits until all processes are ended
    return [found[index] for index in sorted(found)]


def machine() -> dict[str, Any]:
    """What the figures were measured with."""
    return {
        "torch": version("torch"),
        "python": platform.python_version(),
        "pangu-finetune": pangu_core.__version__,
        "cores": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
    }


def say(line: str) -> None:
    """A line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Options:
    """The command line."""

    runs: int
    only: tuple[str, ...]
    stack: tuple[str, ...]
    limit: float
    alone: bool
    json: Path | None
    keep: Path | None
    schedules: int
    seed: int


def plan(options: Options) -> list[Work]:
    """What to measure, in order."""
    cases = [c for c in CASES if not options.only or c.name in options.only]
    stacks = [s for s in STACKS if not options.stack or s.name in options.stack]
    pairs = [(c, s) for s in stacks for c in cases if s.is_ours or c.stock_is is None]
    return [(c, s, run) for run in range(1, options.runs + 1) for c, s in pairs]


@click.command()
@click.option("--runs", default=1, show_default=True, help="Times that each case is measured.")
@click.option("--only", multiple=True, type=click.Choice([c.name for c in CASES]))
@click.option("--stack", multiple=True, type=click.Choice([s.name for s in STACKS]))
@click.option("--limit", default=90.0, show_default=True, help="Seconds until a case is given up.")
@click.option("--alone", is_flag=True, help="Let stock gangs that wait hold the others up.")
@click.option("--json", type=click.Path(path_type=Path), help="Write all results here.")
@click.option("--keep", type=click.Path(path_type=Path), help="Keep logs in this new folder.")
@click.option("--schedules", default=0, help="Instead: live through so many random schedules.")
@click.option("--seed", default=1, show_default=True, help="Of the first schedule.")
def main(**values: Any) -> None:
    """Print the seconds from each fault to the next step; exit 1 if ours misses a bar."""
    options = Options(**values)
    signal.signal(signal.SIGTERM, _interrupt)
    with tempfile.TemporaryDirectory(prefix="bench-elastic-") as temporary:
        folder = options.keep or Path(temporary)
        try:
            sys.exit(live(options, folder) if options.schedules else compare(options, folder))
        except (KeyboardInterrupt, CancelledError):
            raise SystemExit("interrupted; all processes are ended") from None


def live(options: Options, folder: Path) -> int:
    """Random schedules; the exit code."""
    bad = schedules.run(options.schedules, options.seed, folder, say)
    print(f"{options.schedules} schedules, {bad} with a problem")
    return 1 if bad else 0


def compare(options: Options, folder: Path) -> int:
    """The table; the exit code."""
    about, work = machine(), plan(options)
    ours, stock = ([w for w in work if w[1].is_ours is kind] for kind in (True, False))
    results = measure(ours, folder, limit_seconds=options.limit, turn=Turn(None))
    turn = Turn(None if options.alone else PATIENCE_SECONDS)
    results += measure(stock, folder, limit_seconds=options.limit, turn=turn)
    if options.json:
        document = {**about, "results": [asdict(r) for r in results]}
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    print(report.timelines(results))
    print(report.table(results, limit_seconds=options.limit))
    for case in CASES:
        if case.note and any(r.case == case.name for r in results):
            print(f"{case.title}: {case.note}")
    own = {s.name for s in STACKS if s.is_ours}
    kept = [
        report.judgement(c, [r for r in results if r.case == c.name and r.stack in own])
        for c in CASES
    ]
    return 1 if "miss" in kept else 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
