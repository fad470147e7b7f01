"""Processes kept ready for the next round."""

import errno
import json
import os
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from pangu_core.entry import spare
from pangu_core.launch import starter as module
from pangu_core.launch.parent_death import LAUNCHER_VARIABLE
from pangu_core.launch.rank_names import rank_name, read_rank_name
from pangu_core.launch.starter import PLACE_VARIABLE, Starter
from pangu_core.memory import Room

# Waits if it is a spare, then leaves its environment in a file.
RANK = """
import json, os
from pathlib import Path
from pangu_core.launch.starter import wait_for_place
was_spare = "PANGU_PLACE_FD" in os.environ
wait_for_place()
draft = Path(os.environ["FOLDER"], "draft")
draft.write_text(json.dumps({"SPARE": was_spare, **os.environ}))
draft.rename(draft.with_name("said"))
"""
COMMAND = (sys.executable, "-c", RANK)


@pytest.fixture
def base(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "FOLDER": str(tmp_path), LAUNCHER_VARIABLE: str(os.getpid())}


@pytest.fixture
def starter(base: dict[str, str]):
    made = Starter(COMMAND, base, spare_command=COMMAND, spares=1)
    yield made
    made.close()


def said(folder: str) -> dict[str, str]:
    path = Path(folder, "said")
    limit = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < limit
        time.sleep(0.01)
    return json.loads(path.read_text())


def children() -> list[psutil.Process]:
    """Live processes of this test; servers of other tests may run beside them."""
    live = [p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE]
    return [p for p in live if RANK in p.cmdline()]


def num_files() -> int:
    return psutil.Process().num_fds()


def start(starter: Starter, base: dict[str, str]) -> dict[str, str]:
    started = starter.start({"RANK": "3"})
    assert started.process.wait(60) == 0
    os.close(started.pipe)
    return said(base["FOLDER"])


def test_a_spare_becomes_the_rank_that_it_is_told_to_be(starter, base):
    starter.warm_up(gently=False)
    (spare,) = children()
    assert not Path(base["FOLDER"], "said").exists()
    found = start(starter, base)
    assert (found["RANK"], found["SPARE"]) == ("3", True)
    assert PLACE_VARIABLE not in found
    assert not spare.is_running()


def test_without_a_spare_a_rank_starts_by_itself(starter, base):
    found = start(starter, base)
    assert (found["RANK"], found["SPARE"]) == ("3", False)


def test_only_missing_spares_are_started(starter, base):
    starter.warm_up(gently=False)
    (spare,) = children()
    starter.warm_up(gently=False)
    assert children() == [spare]


def test_spares_end_with_their_launcher(starter):
    starter.warm_up(gently=False)
    starter.close()
    assert children() == []


def test_a_spare_that_died_is_neither_used_nor_replaced(starter, base):
    starter.warm_up(gently=False)
    (spare,) = children()
    spare.kill()
    spare.wait(60)
    assert start(starter, base)["SPARE"] is False
    starter.warm_up(gently=False)
    assert children() == []


def test_no_spare_is_started_where_memory_is_short(starter, monkeypatch):
    monkeypatch.setattr(module, "room", lambda: Room(module.SPARE_BYTES - 1, 10**12))
    starter.warm_up(gently=False)
    assert children() == []


def test_a_spare_that_cannot_be_started_is_done_without(base, monkeypatch):
    real, calls = module.subprocess.Popen, []

    def refuse_the_second(*arguments, **rest):
        calls.append(arguments)
        if len(calls) == 2:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return real(*arguments, **rest)

    monkeypatch.setattr(module.subprocess, "Popen", refuse_the_second)
    starter, files = Starter(COMMAND, base, spare_command=COMMAND, spares=2), num_files()
    starter.warm_up(gently=True)
    starter.warm_up(gently=True)
    assert (len(calls), len(children())) == (2, 1)
    starter.close()
    assert (children(), num_files()) == ([], files)


def test_a_spare_beside_training_ranks_is_told_to_be_gentle(starter):
    starter.warm_up(gently=True)
    (spare,) = children()
    assert spare.cmdline()[-1] == "--gently"


def test_a_gentle_spare_loads_slowly_and_is_an_ordinary_process_afterwards(monkeypatch):
    seen = []

    def look() -> None:
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    monkeypatch.setattr(spare, "die_with_parent", lambda: None)
    monkeypatch.setattr(spare, "name_this_process", lambda name: None)
    monkeypatch.setattr(spare, "_load", look)
    monkeypatch.setattr(spare, "wait_for_place", look)
    monkeypatch.setattr(spare, "RANK", "pangu_core.entry.store")
    monkeypatch.setattr(sys, "argv", ["spare", "--gently"])
    monkeypatch.setattr("pangu_core.entry.store.main", lambda: 0)
    before = os.getpriority(os.PRIO_PROCESS, 0)
    spare.main()
    assert seen == [min(19, before + spare.GENTLE), before]


def test_a_rank_is_known_by_its_name_and_a_spare_is_none():
    assert read_rank_name(rank_name(31, 7)) == (31, 7)
    assert read_rank_name("rank -") is None
    assert read_rank_name("python") is None
