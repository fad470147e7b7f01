"""The membership machine against random schedules of faults, and by examples."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pangu_core.rendezvous.protocol import Outcome, Rules
from tests.core.rendezvous_simulation import SAVE_STEPS, TICK, World, run

FAULTS = ["kill", "vanish", "replace_pod", "rank_dies", "terminate", "pause", "resume", "lag"]
FAULTS += ["lose_store", "join", "join", "join"]
RULES = [Rules(1, 1, 3), Rules(1, 2, 4), Rules(2, 2, 4), Rules(2, 4, 6), Rules(3, 3, 3)]


def events(kinds):
    """Lists of (what happens, to whom, ticks until the next)."""
    event = st.tuples(st.sampled_from(kinds), st.integers(0, 99), st.integers(0, 20))
    return st.lists(event, max_size=25)


def play(rules, first, schedule):
    """A world after a schedule of events."""
    world = World(rules)
    for _ in range(first):
        world.join()
    for kind, index, ticks in schedule:
        agents = sorted(world.agents)
        if kind == "join":
            if len(agents) < 7:
                world.join()
        elif agents:
            getattr(world, kind)(world.agents[agents[index % len(agents)]])
        run(world, ticks)
    return world


def calm_down(world):
    """Nothing happens any more; returns how many steps the last ticks brought."""
    for agent in world.agents.values():
        agent.stopped, agent.deaf = False, 0
    run(world, 140)
    before = world.training.checkpoint
    run(world, 20)
    return world.training.checkpoint - before


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(RULES), st.integers(1, 5), events(FAULTS))
def test_no_schedule_of_faults_makes_a_wrong_world_or_loses_a_sample(rules, first, schedule):
    world = play(rules, first, schedule)
    progress = calm_down(world)
    working = list(world.complete().values())
    size = rules.fit(len(world.agents))
    assert [len(r.members) for r in working] == ([size] if size else [])
    assert (progress > 0) == bool(size)
    surviving = world.training.surviving()
    assert surviving == list(range(1, len(surviving) + 1))
    assert len(surviving) >= world.training.checkpoint


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(RULES), st.integers(1, 5), events(["join", "terminate"]))
def test_planned_changes_of_size_do_no_step_twice(rules, first, schedule):
    world = play(rules, first, schedule)
    calm_down(world)
    steps = [step for _, step in world.training.log]
    assert steps == list(range(1, len(steps) + 1))


@pytest.fixture
def world():
    made = World(Rules(1, 1, 4))
    for name in "abc":
        made.join(name)
    for _ in range(8):
        made.tick()
    assert len(made.complete()[1].members) == 3
    return made


def names(members):
    return [m.partition("#")[0] for m in members]


def test_the_loss_of_a_node_that_still_runs_the_round_before_breaks_the_new_one():
    """A node may start a round just as it breaks; the store learns of its ranks too late."""
    world = World(Rules(1, 1, 3))
    for _ in range(5):
        world.join()
    world.kill(world.agents["n1#1"])
    world.tick()
    world.terminate(world.agents["n2#2"])
    world.tick()
    world.kill(world.agents["n4#4"])
    run(world, 60)
    assert [len(r.members) for r in world.complete().values()] == [2]


def test_members_keep_their_places_and_a_replacement_takes_its_predecessors(world):
    world.replace_pod(world.agents["a#1"])
    run(world, 20)
    (found,) = world.complete().values()
    assert names(found.members) == ["a", "b", "c"]
    assert found.members[0] == "a#4"
    assert found.master_address == "a#4"


def test_a_round_drains_for_as_long_as_its_nodes_take_to_save(world):
    """Their launchers end ranks that take too long; a limit here would only be shorter."""
    agents = list(world.agents.values())
    agents[0].leaving = True
    for _ in range(400):
        world.now += TICK
        answers = [world.say(agent) for agent in agents]
    assert [answer.command for answer in answers] == ["drain"] * 3


def test_a_restarted_store_adopts_the_running_round_without_breaking_it(world):
    world.lose_store()
    run(world, 40)
    assert list(world.complete()) == [1]


def test_a_restarted_store_forms_nothing_from_those_who_wait_while_a_round_runs():
    world = World(Rules(1, 1, 2))
    for name in "abc":
        world.join(name)
    run(world, 8)
    world.lose_store()
    for member in world.complete()[1].members:
        world.agents[member].deaf = 10
    run(world, 30)
    assert list(world.complete()) == [1]


def test_a_stopped_agent_whose_ranks_work_is_left_in_peace(world):
    world.agents["b#2"].stopped = True
    run(world, 60)
    assert list(world.complete()) == [1]


@pytest.fixture
def two_worlds():
    """The only node of a round is stopped; its ranks work on while another forms the next."""
    world = World(Rules(1, 1, 2))
    world.join("a")
    run(world, 8)
    world.pause(world.agents["a#1"])
    world.join("b")
    while world.training.claim != 2:
        world.tick()
    assert world.agents["a#1"].ranks
    return world


def test_ranks_that_nobody_reaches_commit_nothing_once_others_have_loaded(two_worlds):
    orphan = two_worlds.agents["a#1"]
    run(two_worlds, 2 * SAVE_STEPS)
    assert not orphan.ranks
    assert two_worlds.training.checkpoint == two_worlds.training.steps[2] // SAVE_STEPS * SAVE_STEPS
    two_worlds.resume(orphan)
    run(two_worlds, 60)
    assert [len(r.members) for r in two_worlds.complete().values()] == [2]
    surviving = two_worlds.training.surviving()
    assert surviving == list(range(1, len(surviving) + 1))


def test_the_failure_of_a_round_that_is_over_ends_nothing(two_worlds):
    orphan = two_worlds.agents["a#1"]
    orphan.leave(clean=False)
    orphan.outcome = Outcome(code=6, error="WorkspaceError")
    two_worlds.resume(orphan)
    run(two_worlds, 4)
    assert two_worlds.gang.outcome is None
    assert list(two_worlds.complete()) == [2]


def test_a_failure_of_the_last_round_ends_the_attempt_for_all(world):
    failing = world.agents["b#2"]
    failing.leave(clean=False)
    failing.outcome = Outcome(code=5, error="TrainingError")
    run(world, 3)
    assert world.gang.outcome == failing.outcome
    assert not world.agents


def test_the_result_reaches_everyone_late_joiners_too(world):
    result = Outcome(code=0, output="out", manifest_sha256="ab")
    agents = list(world.agents.values())
    agents[0].outcome = result
    run(world, 3)
    world.join()
    late = world.agents["n4#4"]
    run(world, 2)
    assert {a.ended for a in [*agents, late]} == {result}
    assert not world.agents


def test_a_revived_agent_does_not_push_out_the_pod_that_replaced_it(world):
    old = world.agents["a#1"]
    world.replace_pod(old)
    run(world, 20)
    world.agents["a#1"] = old
    run(world, 20)
    assert old.ended.code == 201
    assert old.ended.message.startswith("a: a newer pod of this name: one pod")
    assert "a#4" in next(iter(world.complete().values())).members
