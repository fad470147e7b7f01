"""Faults while the world keeps its size: real launchers and ranks, and not a bit changes."""

import os
import signal
import time
from dataclasses import replace

import pytest

from tests.elastic.traces import distance

pytestmark = [pytest.mark.parallel, pytest.mark.timeout(900)]

STEPS_BETWEEN_FAULTS = 7  # more than a checkpoint's interval: each round gets further


class Story:
    """One fault after the other in a gang of fixed size, always a few steps later."""

    def __init__(self, gang, names, *, world_size):
        self.gang, self.names, self.world_size = gang, names, world_size
        gang.start_store()
        gang.pace(step=0.1)
        gang.start(*names)
        self.start = gang.wait_for_start(world_size=world_size)

    def next_round(self):
        """All are back; training went on from a checkpoint."""
        before, self.start = (
            self.start,
            self.gang.wait_for_start(world_size=self.world_size, after=self.start["round"]),
        )
        assert self.start["round"] == before["round"] + 1
        assert self.start["step"] >= before["step"]

    def train(self):
        step = self.start["step"] + STEPS_BETWEEN_FAULTS
        self.gang.wait_for_step(step, round_number=self.start["round"])

    def kill_a_rank(self):
        self.train()
        os.kill(self.gang.ranks()[-1].pid, signal.SIGKILL)
        self.next_round()

    def replace_the_first_launcher(self):
        self.train()
        self.gang.replace(self.names[0])
        self.next_round()

    def lose_the_store_and_then_a_launcher(self):
        self.train()
        self.gang.kill_store()
        num_steps, num_changes = len(self.gang.metrics("step")), len(self.gang.rounds())
        time.sleep(1)
        self.gang.start_store()
        self.gang.wait(lambda: len(self.gang.rounds()) > num_changes, "the round's adoption")
        assert self.gang.rounds()[-1] == replace(self.gang.rounds()[0], number=self.start["round"])
        assert len(self.gang.metrics("step")) > num_steps
        assert self.gang.metrics("start")[-1] == self.start  # nobody noticed
        self.gang.replace(self.names[-1])
        self.next_round()

    def stop_a_rank(self):
        self.train()
        stopped = self.gang.ranks()[-1]
        os.kill(stopped.pid, signal.SIGSTOP)
        self.next_round()
        assert "(most recent call first)" in self.gang.log(stopped.launcher)


@pytest.fixture
def tell(make_gang, undisturbed):
    """Tells a story of a gang to its end and compares with the run in which nothing happened."""

    def teller(tensor_parallel, processes, agents, faults):
        gang = make_gang(
            tensor_parallel=tensor_parallel,
            processes=processes,
            low=agents,
            high=agents,
            settings={"train": {"hang": {"floorSeconds": 6.0}}},
        )
        names = [f"pod-{number}" for number in range(agents)]
        story = Story(gang, names, world_size=agents * processes)
        for fault in faults:
            fault(story)
        found = gang.finish()
        assert distance(found, undisturbed(tensor_parallel, agents * processes)) == 0.0

    return teller


ALL = (
    Story.kill_a_rank,
    Story.replace_the_first_launcher,
    Story.lose_the_store_and_then_a_launcher,
    Story.stop_a_rank,
)


@pytest.mark.parametrize("tensor_parallel", [1, 2])
def test_no_fault_changes_a_bit_with_one_rank_a_pod(tell, tensor_parallel):
    """For tensor size 2, a group spans two pods."""
    tell(tensor_parallel, 1, 2, ALL)


def test_no_fault_changes_a_bit_with_one_tensor_group_a_pod(tell):
    tell(2, 2, 1, [Story.replace_the_first_launcher, Story.stop_a_rank])


def test_no_fault_changes_a_bit_with_several_tensor_groups_a_pod(tell):
    tell(1, 2, 2, [Story.kill_a_rank, Story.replace_the_first_launcher])
