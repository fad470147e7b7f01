"""A launcher that was stopped: its ranks train on, the others drop it, it does no harm later."""

import os
import signal

import pytest

from tests.elastic.processes import has_ended
from tests.elastic.traces import distance

pytestmark = [pytest.mark.parallel, pytest.mark.timeout(900)]

TOLERANCE = 1e-9  # float64


def test_its_ranks_train_on_until_the_next_round_drops_them(make_gang, undisturbed):
    gang = make_gang(low=1, high=2)
    gang.start_store()
    gang.pace(step=0.2)
    gang.start("a", "b")
    gang.wait_for_step(3)
    gang.send("b", signal.SIGSTOP)
    (orphan,), (other,) = gang.ranks("b"), gang.ranks("a")
    gang.wait_for_step(gang.metrics("step")[-1]["step"] + 20)  # 4 s, more than the store's 3
    assert len(gang.metrics("start")) == 1
    os.kill(other.pid, signal.SIGKILL)
    alone = gang.wait_for_start(world_size=1)
    gang.wait(lambda: has_ended(orphan.pid), "the end of the rank whose peers are gone")
    gang.wait_for_step(alone["step"] + 2, round_number=alone["round"])
    gang.send("b", signal.SIGCONT)
    gang.wait_for_start(world_size=2, after=alone["round"])
    assert distance(gang.finish(), undisturbed(1, 2)) < TOLERANCE


def test_a_world_of_its_own_commits_nothing_once_another_has_formed(make_gang, undisturbed):
    """No peer tells its rank that the others went on without it: the fence does."""
    gang = make_gang(low=1, high=2, settings={"train": {"checkpoint": {"everySteps": 2}}})
    gang.start_store()
    gang.pace(step=1.5)
    gang.start("a")
    gang.wait_for_step(1)
    gang.send("a", signal.SIGSTOP)
    (orphan,) = gang.ranks("a")
    gang.start("b")
    second = gang.wait_for_start(after=1)
    assert second["world_size"] == 1
    gang.wait(lambda: has_ended(orphan.pid), "the end of the rank that may not commit")
    assert "a later round of this attempt writes here" in gang.log("a")
    gang.pace(step=0.2)
    gang.send("a", signal.SIGCONT)
    gang.wait_for_start(world_size=2, after=second["round"])
    assert distance(gang.finish(), undisturbed(1, 2)) < TOLERANCE
