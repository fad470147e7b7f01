"""One rank of a measured gang: joins gloo, all-reduces, sleeps; notes when it did what.

The same file runs under our launcher and under torchrun. What only our launcher asks of a rank
(heartbeats, leaving at a step boundary) is silent under torchrun.
"""

import importlib
import json
import os
import time
from pathlib import Path
from typing import Any, Final

from pangu_core.errors import EXIT_REJOIN, EXIT_STOPPED, RendezvousError
from pangu_core.launch.parent_death import die_with_parent
from pangu_core.launch.rank_names import SPARE_NAME, name_this_process, rank_name
from pangu_core.launch.starter import PLACE_VARIABLE, wait_for_place
from pangu_core.training.heartbeat import HEARTBEAT_VARIABLE, Heartbeat
from pangu_core.training.signals import StopRequests

NOTES_VARIABLE: Final = "BENCH_NOTES"
STEP_SECONDS: Final = 0.2
STEPS: Final = 1_000_000  # more than any case waits for


class Notes:
    """Appends one JSON line per event to a file of this process's own."""

    def __init__(self, folder: Path) -> None:
        path = folder / f"{time.time_ns()}-{os.getpid()}.jsonl"
        self._file = path.open("a", buffering=1, encoding="utf-8")
        own = {"pid": os.getpid(), "rank": int(os.environ["RANK"])}
        self._own = {**own, "world": int(os.environ["WORLD_SIZE"])}

    def add(self, event: str, **values: Any) -> None:
        """Note an event now."""
        line = {"event": event, "time": time.time(), **self._own, **values}
        self._file.write(json.dumps(line) + "\n")


def main() -> None:
    die_with_parent()
    if PLACE_VARIABLE in os.environ:
        importlib.import_module("torch.distributed")
        name_this_process(SPARE_NAME)
        wait_for_place()
        name_this_process(rank_name(int(os.environ["RANK"]), int(os.environ["PANGU_ROUND"])))
    notes = Notes(Path(os.environ[NOTES_VARIABLE]))
    notes.add("python")
    stop = StopRequests()
    is_ours = HEARTBEAT_VARIABLE in os.environ
    if is_ours:
        stop.listen()
    heartbeat = Heartbeat(STEPS)
    heartbeat.beat("start")
    # Here, so that the time it takes lies between two notes.
    import torch.distributed as dist

    notes.add("imported")
    try:
        dist.init_process_group("gloo")
        notes.add("joined")
        code = make_steps(notes, heartbeat, stop)
    except RuntimeError:
        if not is_ours:
            raise
        code = RendezvousError.exit_code
    os._exit(code)  # at once: taking the process group down would wait for peers


def make_steps(notes: Notes, heartbeat: Heartbeat, stop: StopRequests) -> int:
    """Step until any rank of the world is asked to stop; returns the exit code."""
    import torch
    import torch.distributed as dist

    for step in range(1, STEPS):
        asked = torch.tensor([float(stop.must_go or stop.must_regroup)])
        dist.all_reduce(asked)
        if asked.item():
            break
        time.sleep(STEP_SECONDS)
        heartbeat.beat("step", step=step)
        if dist.get_rank() == 0:
            notes.add("step", step=step)
    return EXIT_STOPPED if stop.must_go else EXIT_REJOIN


if __name__ == "__main__":
    main()
