"""Processes that launchers keep ready become the ranks of the next round."""

import os
import signal

import pytest

from tests.elastic.processes import has_ended
from tests.elastic.traces import distance

pytestmark = [pytest.mark.parallel, pytest.mark.timeout(900)]


def test_the_spares_take_over_from_lost_ranks_without_changing_a_bit(make_gang, undisturbed):
    gang = make_gang(tensor_parallel=2, processes=2, settings={"train": {"warmSpares": True}})
    gang.start_store()
    gang.pace(step=0.2)
    gang.start("a")
    first = gang.wait_for_start()
    gang.wait_for_step(6)
    gang.pace(step=4)  # spares load beside training, and must be ready before its end
    spares = gang.wait(lambda: len(found := gang.spares("a")) == 2 and found, "both spares")
    os.kill(gang.ranks()[-1].pid, signal.SIGKILL)
    gang.wait_for_start(after=first["round"])
    assert sorted(rank.pid for rank in gang.ranks()) == spares
    later = gang.wait(lambda: len(found := gang.spares("a")) == 2 and found, "new spares")
    gang.replace("a")
    gang.wait(lambda: all(map(has_ended, later)), "the end of the spares with their launcher")
    assert distance(gang.finish(), undisturbed(2, 2)) == 0.0
