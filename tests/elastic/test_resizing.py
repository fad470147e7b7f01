"""The gang grows and shrinks: whole units only, every sample once, the same numbers as ever."""

import random
import signal

import pytest

from tests.elastic.traces import distance

pytestmark = [pytest.mark.parallel, pytest.mark.timeout(900)]

TOLERANCE = 1e-9  # float64; the sums over ranks are added in another order


def shrink(gang, draw, count):
    """Lose launchers by kill -9 or SIGTERM, any of them, until so many are left."""
    for name in draw.sample(gang.alive(), len(gang.alive()) - count):
        if draw.random() < 0.5:
            gang.kill(name)
        else:
            gang.send(name, signal.SIGTERM)
            assert gang.exit(name)[0] == 143


@pytest.mark.parametrize(
    ("seed", "tensor_parallel", "processes", "high"),
    [(3, 1, 1, 6), (17, 2, 1, 4), (0, 2, 1, 4), (0, 1, 2, 2), (2, 2, 2, 2)],
)
def test_a_random_walk_over_sizes(make_gang, undisturbed, seed, tensor_parallel, processes, high):
    draw, unit = random.Random(seed), max(1, tensor_parallel // processes)
    gang = make_gang(tensor_parallel=tensor_parallel, processes=processes, low=unit, high=high)
    gang.start_store()
    gang.pace(step=0.2)
    world = last_round = 0
    for change in range(3):
        before = len(gang.alive())
        count = draw.choice([n for n in range(unit, high + 1) if n != before])
        if count > before:
            gang.start(*(f"pod-{change}-{number}" for number in range(count - before)))
        else:
            shrink(gang, draw, count)
        if world != count // unit * unit * processes:
            world = count // unit * unit * processes
            last_round = gang.wait_for_start(world_size=world, after=last_round)["round"]
        latest = gang.metrics("start")[-1]
        gang.wait_for_step(latest["step"] + 2, round_number=latest["round"])
    assert distance(gang.finish(), undisturbed(1, 2)) < TOLERANCE
    assert all(len(change.members) % unit == 0 for change in gang.rounds())


def test_with_half_a_tensor_group_a_pod_a_world_of_three_never_forms(make_gang, undisturbed):
    gang = make_gang(tensor_parallel=2, processes=1, low=2, high=4)
    gang.start_store()
    gang.pace(step=0.2)
    gang.start("a", "b", "c")
    first = gang.wait_for_start(world_size=2)
    gang.wait_for_step(6)
    members = gang.rounds()[0].members
    (surplus,) = {"a", "b", "c"} - set(members)
    assert gang.progress(surplus)["phase"] == "wait"
    gang.send(members[0], signal.SIGTERM)
    second = gang.wait_for_start(world_size=2, after=first["round"])
    assert surplus in gang.rounds()[-1].members
    assert second["step"] >= 6  # saved at the boundary
    assert distance(gang.finish(), undisturbed(1, 2)) < TOLERANCE
    assert {len(change.members) for change in gang.rounds()} == {2}


def test_a_pod_told_to_stop_saves_for_all_and_all_told_to_stop_go_on_later(make_gang, undisturbed):
    gang = make_gang(low=1, high=2)
    gang.start_store()
    gang.pace(step=0.2)
    gang.start("a", "b")
    first = gang.wait_for_start(world_size=2)
    gang.wait_for_step(first["step"] + 2, round_number=first["round"])
    gang.send("a", signal.SIGTERM)
    code, words = gang.exit("a")
    assert (code, words.message) == (143, "asked to stop; saved at a step boundary"), gang.tails()
    alone = gang.wait_for_start(world_size=1, after=first["round"])
    assert alone["step"] == words.step  # nothing was done twice
    gang.start("a")
    both = gang.wait_for_start(world_size=2, after=alone["round"])
    gang.wait_for_step(both["step"] + 2, round_number=both["round"])
    for name in ("a", "b"):
        gang.send(name, signal.SIGTERM)
    assert gang.exits() == {"a": 143, "b": 143}
    saved_at = gang.exit("a")[1].step
    later = make_gang(low=1, high=2, attempt=2)
    later.start_store()
    later.start("a", "b")
    assert distance(later.finish(), undisturbed(1, 2)) < TOLERANCE
    assert later.metrics("start")[-1]["step"] == saved_at
