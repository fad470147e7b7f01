"""The membership machine against random schedules of faults, and by examples."""

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pangu_core.rendezvous.membership import Gang, Timing, hang_up, hear, settle, view
from pangu_core.rendezvous.protocol import Beat, Outcome, Round, Rules

TIMING = Timing(quiet=1.0, dead=3.0, hangup=0.5, recovery=4.0, growth=3.0)
TICK = 0.25
VAIN_TICKS = 24


@dataclass
class SimAgent:
    """What agent.py does with the store's answers, without processes."""

    id: str
    rules: Rules
    left: int = 0
    seen: int = 0
    clean: bool = True
    round: Round | None = None
    ranks: bool = False
    leaving: bool = False
    outcome: Outcome | None = None
    ended: Outcome | None = None
    progress: int = 0
    deaf: int = 0  # ticks in which it does not talk to the store
    vain: int = 0  # ticks in which its ranks could not leave
    stopped: bool = False  # SIGSTOP: deaf, and unable to act

    def beat(self, **changes):
        state = "leaving" if self.leaving else "running"
        beat = Beat(
            gang="g",
            rules=self.rules,
            id=self.id,
            address=self.id,
            port=1,
            state=state if self.round else "waiting",
            round=self.round,
            left=self.left,
            seen=self.seen,
            clean=self.clean,
            progress=self.progress,
            outcome=self.outcome,
        )
        return replace(beat, **changes)

    def leave(self, *, clean):
        self.left, self.clean = self.round.number, clean
        self.round, self.ranks, self.vain = None, False, 0


@dataclass
class World:
    """Agents, the store's memory, and the clock."""

    rules: Rules
    now: float = 0.0
    gang: Gang | None = None
    agents: dict[str, SimAgent] = field(default_factory=dict)
    agreed: set[int] = field(default_factory=set)  # rounds whose ranks stop at the next step
    born: int = 0
    highest: int = 0

    def complete(self):
        """Rounds all of whose members have live ranks in them, by number."""
        found = {}
        for agent in self.agents.values():
            if agent.round:
                peers = [self.agents.get(m) for m in agent.round.members]
                if all(p and p.ranks and p.round == agent.round for p in peers):
                    found[agent.round.number] = agent.round
        return found

    def join(self, name=None):
        self.born += 1
        made = f"{name or 'n' + str(self.born)}#{self.born}"
        self.agents[made] = SimAgent(made, self.rules)

    def tick(self):
        self.now += TICK
        working = self.complete()
        for agent in list(self.agents.values()):
            if agent.ranks and agent.round.number in working:
                agent.progress += 1
            if not agent.stopped:
                self.act(agent, working)
        if self.gang:
            self.gang = settle(self.gang, self.now)
        self.check()

    def act(self, agent, working):
        if agent.round and agent.round.number in self.agreed and agent.round.number in working:
            agent.leave(clean=True)
            if agent.leaving:
                self.say(agent, state="gone")
                del self.agents[agent.id]
                return
        if agent.deaf:
            agent.deaf -= 1
            return
        answer = self.say(agent)
        agent.seen = max(agent.seen, answer.number)
        if answer.command == "exit":
            agent.ended = answer.outcome
            del self.agents[agent.id]
        elif answer.command == "start" and not agent.round and answer.round.number > agent.left:
            agent.round, agent.ranks = answer.round, True
        elif answer.command == "stop" and agent.round:
            agent.leave(clean=False)
            if agent.leaving:
                del self.agents[agent.id]
        elif answer.command == "drain" and agent.round and agent.round.number in working:
            self.agreed.add(agent.round.number)
        elif answer.command == "drain" and agent.round:
            self.wait_in_vain(agent)

    def wait_in_vain(self, agent):
        """Ranks that cannot reach a step boundary stall, or miss their deadline."""
        agent.vain += 1
        if agent.vain > VAIN_TICKS:
            agent.leave(clean=False)
            if agent.leaving:
                self.say(agent, state="gone")
                del self.agents[agent.id]

    def say(self, agent, **changes):
        if self.gang is None:
            self.gang = Gang(self.rules, TIMING, hold_until=self.now)
        self.gang = hear(self.gang, agent.beat(**changes), self.now)
        return view(self.gang, agent.id)

    def check(self):
        working = self.complete()
        assert len(working) <= 1
        for found in working.values():
            size = len(found.members)
            assert size % self.rules.unit == 0
            assert self.rules.low <= size <= self.rules.high
            assert all(self.agents[m].left < found.number for m in found.members)
        if self.gang:
            assert self.gang.number >= self.highest
            self.highest = self.gang.number

    # Faults

    def kill(self, agent):
        del self.agents[agent.id]
        if self.gang:
            self.gang = hang_up(self.gang, agent.id, self.now)

    def vanish(self, agent):
        del self.agents[agent.id]

    def replace_pod(self, agent):
        del self.agents[agent.id]
        self.join(agent.id.partition("#")[0])

    def rank_dies(self, agent):
        if agent.round and not agent.stopped:
            agent.leave(clean=False)
            if agent.leaving:
                self.kill(agent)

    def terminate(self, agent):
        if agent.stopped:
            return
        agent.leaving = True
        if not agent.round:
            self.say(agent, state="gone")
            del self.agents[agent.id]
        elif agent.round.number in self.complete():
            self.agreed.add(agent.round.number)

    def pause(self, agent):
        alone = agent.round and len(agent.round.members) == 1
        if not alone and not any(a.stopped for a in self.agents.values()):
            agent.stopped = True

    def resume(self, agent):
        agent.stopped = False

    def lag(self, agent):
        agent.deaf = 6

    def lose_store(self, agent=None):
        self.gang, self.highest = None, 0
        for place, other in enumerate(self.agents.values()):
            other.deaf = place * 5 % 8  # they come back one by one, in another order


FAULTS = ["kill", "vanish", "replace_pod", "rank_dies", "terminate", "pause", "resume", "lag"]
FAULTS += ["lose_store", "join", "join", "join"]
RULES = [Rules(1, 1, 3), Rules(1, 2, 4), Rules(2, 2, 4), Rules(2, 4, 6), Rules(3, 3, 3)]


@settings(max_examples=60, deadline=None)
@given(
    rules=st.sampled_from(RULES),
    first=st.integers(1, 5),
    schedule=st.lists(
        st.tuples(st.sampled_from(FAULTS), st.integers(0, 99), st.integers(0, 12)), max_size=25
    ),
)
def test_no_schedule_of_faults_makes_a_wrong_world_and_calm_makes_the_largest(
    rules, first, schedule
):
    world = World(rules)
    for _ in range(first):
        world.join()
    for fault, index, ticks in schedule:
        agents = sorted(world.agents)
        if fault == "join":
            if len(agents) < 7:
                world.join()
        elif agents:
            getattr(world, fault)(world.agents[agents[index % len(agents)]])
        for _ in range(ticks):
            world.tick()
    for agent in world.agents.values():
        agent.stopped, agent.deaf = False, 0
    for _ in range(200):
        world.tick()
    working = list(world.complete().values())
    size = rules.fit(len(world.agents))
    assert [len(r.members) for r in working] == ([size] if size else [])


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


def run(world, ticks):
    for _ in range(ticks):
        world.tick()


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
