"""Work beside the training loop, and how all ranks wait for it together."""

import threading
from pathlib import Path

import pytest

from pangu_core.checkpoint import background
from pangu_core.checkpoint.agreement import Failure, alone
from pangu_core.checkpoint.background import Task, wait_for_all
from pangu_core.errors import WorkspaceError


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(background, "LISTEN_SECONDS", 0.01)


def test_the_outcome_is_a_result_or_a_failure():
    good, bad = Task(lambda tally: 7, name="x"), Task(lambda tally: Path("/no").stat(), name="x")
    for task in (good, bad):
        assert wait_for_all(task, alone, lambda: None)
    assert good.outcome == 7
    assert isinstance(bad.outcome, Failure)
    assert bad.outcome.kind is WorkspaceError


def test_all_ranks_wait_until_the_last_is_done(small):
    gate = threading.Event()
    threading.Timer(0.2, gate.set).start()

    def one(rank, gather):
        task = Task(lambda tally: gate.wait(10) if rank == 1 else None, name="x")
        return wait_for_all(task, gather, lambda: None), gate.is_set()

    assert small.ranks(3, one) == [(True, True)] * 3


def test_a_rank_that_must_leave_ends_the_waiting_of_all(small):
    gate = threading.Event()

    def one(rank, gather):
        task = Task(lambda tally: gate.wait(10), name="x")
        return wait_for_all(task, gather, lambda: None, must_leave=lambda: rank == 2)

    assert small.ranks(3, one) == [False] * 3
    gate.set()


def test_a_sign_of_life_needs_bytes_that_move():
    gate, signs = threading.Event(), []

    def work(tally):
        tally(5)
        gate.wait(10)

    threading.Timer(0.3, gate.set).start()
    wait_for_all(Task(work, name="x"), alone, lambda: signs.append(1))
    assert len(signs) in (1, 2)  # none for the 20 or so looks at work that stands still
