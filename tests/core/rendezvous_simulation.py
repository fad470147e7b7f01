"""Agents, their ranks and the store without processes: what the membership machine is tried on."""

from dataclasses import dataclass, field, replace

from pangu_core.rendezvous.membership import Gang, Timing, hang_up, hear, settle, view
from pangu_core.rendezvous.protocol import Beat, Outcome, Round, Rules

TIMING = Timing(quiet=1.0, dead=3.0, hangup=0.5, recovery=4.0, growth=3.0)
TICK = 0.25
VAIN_TICKS = 24
SAVE_STEPS = 3


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
    saved: bool = False  # how its ranks ended: at a step boundary
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
        self.round, self.ranks, self.saved, self.vain = None, False, False, 0


@dataclass
class Training:
    """The ranks' side: steps, the log of samples, and checkpoints behind the fence."""

    loaded: dict[int, int] = field(default_factory=dict)  # round -> step resumed from, in order
    steps: dict[int, int] = field(default_factory=dict)  # round -> its last step
    log: list[tuple[int, int]] = field(default_factory=list)  # (round, step), a step is a sample
    checkpoint: int = 0
    claim: int = 0  # the round that loaded last; no other commits

    def load(self, number):
        self.claim = number
        self.loaded[number] = self.steps[number] = self.checkpoint

    def step(self, number):
        self.steps[number] += 1
        self.log.append((number, self.steps[number]))

    def save(self, number):
        """Whether the fence let the round commit."""
        if self.claim == number:
            self.checkpoint = self.steps[number]
        return self.claim == number

    def surviving(self):
        """The log without what later rounds did again."""
        order = list(self.loaded)
        resumed = [self.loaded[number] for number in order]
        kept = []
        for number, step in self.log:
            later = resumed[order.index(number) + 1 :]
            if step <= min(later, default=step):
                kept.append(step)
        return sorted(kept)


@dataclass
class World:
    """Agents, the store's memory, the ranks' training, and the clock."""

    rules: Rules
    now: float = 0.0
    gang: Gang | None = None
    agents: dict[str, SimAgent] = field(default_factory=dict)
    training: Training = field(default_factory=Training)
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
        self.train(working)
        for agent in list(self.agents.values()):
            if not agent.stopped:
                self.act(agent, working)
        if self.gang:
            self.gang = settle(self.gang, self.now)
        self.check()

    def train(self, working):
        """Ranks step if all are there; they end together, or when one of them is gone."""
        for number, current in working.items():
            if number not in self.training.loaded:
                self.training.load(number)
            members = [self.agents[m] for m in current.members]
            if number in self.agreed:
                self.end_ranks(members, saved=self.training.save(number))
                continue
            self.training.step(number)
            for agent in members:
                agent.progress += 1
            due = self.training.steps[number] % SAVE_STEPS == 0
            if due and not self.training.save(number):
                self.end_ranks(members, saved=False)
        for agent in self.agents.values():
            number = agent.round.number if agent.round else 0
            if agent.ranks and number in self.training.loaded and number not in working:
                self.end_ranks([agent], saved=False)  # a collective has lost a peer

    def end_ranks(self, agents, *, saved):
        for agent in agents:
            agent.ranks, agent.saved = False, saved

    def act(self, agent, working):
        if agent.round and not agent.ranks:
            agent.leave(clean=agent.saved)
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
        # Beside the world, only such may live on as nobody can reach; the fence is for them.
        assert len([r for r in working.values() if self.is_reachable(r)]) <= 1
        for found in working.values():
            size = len(found.members)
            assert size % self.rules.unit == 0
            assert self.rules.low <= size <= self.rules.high
            assert all(self.agents[m].left < found.number for m in found.members)
        if self.gang:
            assert self.gang.number >= self.highest
            self.highest = self.gang.number

    def is_reachable(self, current):
        members = [self.agents[m] for m in current.members]
        return any(not (agent.stopped or agent.deaf) for agent in members)

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
        if agent.round and agent.round.number in self.complete():
            self.agreed.add(agent.round.number)
            return
        if agent.round:
            agent.leave(clean=False)  # its ranks have made no step
        self.say(agent, state="gone")
        del self.agents[agent.id]

    def pause(self, agent):
        agent.stopped = True

    def resume(self, agent):
        agent.stopped = False

    def lag(self, agent):
        agent.deaf = 6

    def lose_store(self, agent=None):
        self.gang, self.highest = None, 0
        for place, other in enumerate(self.agents.values()):
            other.deaf = place * 5 % 8  # they come back one by one, in another order


def run(world, ticks):
    for _ in range(ticks):
        world.tick()
