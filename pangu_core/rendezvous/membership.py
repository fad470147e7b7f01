"""Who trains together: a pure state machine over beats and time. Used by the store alone.

Every function takes a ``Gang`` and returns the next one; nothing here reads a clock or a socket.
Invariants (tests/core/test_rendezvous_membership.py):

* a round's size is a multiple of the unit, from low to high;
* a new round forms only when every live node has left the one before;
* round numbers never repeat and never fall;
* a store that lost its memory adopts the round that its agents say is running.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from pangu_core.errors import EXIT_COMPLETE, RendezvousError
from pangu_core.rendezvous.protocol import (
    Beat,
    Command,
    Outcome,
    Round,
    Rules,
    State,
    View,
    name_of,
)

Status = Literal["forming", "running", "draining", "broken"]
# Incarnations remembered as dead, so that a revived one does not push its successor out.
REPLACED_LIMIT: Final = 64


@dataclass(frozen=True)
class Timing:
    """Seconds; tests shorten them."""

    quiet: float = 2.0  # a round below its maximum waits this long for more nodes
    dead: float = 5.0  # silence after which a node counts as lost
    hangup: float = 1.0  # the same after its connection closed: it may reconnect
    recovery: float = 10.0  # a store without memory waits this long for a running round
    growth: float = 30.0  # a round runs at least this long before it makes room for more


@dataclass(frozen=True)
class Member:
    """One node as last heard."""

    id: str
    address: str
    port: int
    state: State
    order: int  # rank of arrival
    heard_at: float
    number: int = 0  # round whose ranks run there; 0: none
    left: int = 0
    progress: int = 0
    hung_up_at: float | None = None


@dataclass(frozen=True)
class Gang:
    """All that the store knows about one attempt."""

    rules: Rules
    timing: Timing
    number: int = 0  # highest round number heard of
    closed: int = 0  # highest round number that ended here; it is never adopted again
    members: Mapping[str, Member] = field(default_factory=dict)
    round: Round | None = None
    status: Status = "forming"
    since: float = 0.0  # when the status began
    changed_at: float = 0.0  # when the set of waiting nodes last changed
    progressed_at: float = 0.0  # when a rank of the round last showed life
    hold_until: float = 0.0  # no round forms earlier
    previous: tuple[str, ...] = ()  # names of the last round, in rank order
    arrivals: int = 0
    replaced: tuple[str, ...] = ()
    outcome: Outcome | None = None


def hear(gang: Gang, beat: Beat, now: float) -> Gang:
    """Take in a beat."""
    if beat.id in gang.replaced:
        return settle(gang, now)
    for other in gang.members.values():
        if other.id != beat.id and name_of(other.id) == beat.name:
            gang = _forget(gang, other.id, now)
            gang = replace(gang, replaced=(*gang.replaced, other.id)[-REPLACED_LIMIT:])
    gang = _learn(gang, beat, now)
    if gang.outcome is None and beat.outcome is not None and _counts(gang, beat, beat.outcome):
        gang = replace(gang, outcome=beat.outcome)
    if beat.state == "gone":
        return settle(_forget(gang, beat.id, now, clean=beat.clean), now)
    return settle(_leave(_update(gang, beat, now), beat, now), now)


def hang_up(gang: Gang, member_id: str, now: float) -> Gang:
    """Note that a node's connection closed without a last word."""
    member = gang.members.get(member_id)
    if member is None:
        return gang
    return settle(_with(gang, replace(member, hung_up_at=now)), now)


def view(gang: Gang, member_id: str) -> View:
    """What one node should do now."""
    number, current = gang.number, gang.round
    if member_id in gang.replaced:
        return View("exit", number=number, outcome=Outcome.of(_displaced(member_id)))
    if gang.outcome is not None:
        return View("exit", number=number, outcome=gang.outcome)
    member = gang.members.get(member_id)
    has_ranks = member is not None and member.number > 0
    if current is None or member is None or member_id not in current.members:
        return View("stop" if has_ranks else "wait", number=number)
    if has_ranks and member.number != current.number:
        return View("stop", number=number, round=current)
    if gang.status == "running":
        return View("start", number=number, round=current)
    farewell: Command = "drain" if gang.status == "draining" else "stop"
    return View(farewell if has_ranks else "wait", number=number, round=current)


def _displaced(member_id: str) -> RendezvousError:
    return RendezvousError(
        name_of(member_id),
        seen="a newer pod of this name",
        rule="one pod of a name takes part at a time",
        fix="let this pod end; if nothing replaced it, give each pod its own PANGU_AGENT_NAME",
    )


def settle(gang: Gang, now: float) -> Gang:
    """Do what time alone brings about: losses, broken rounds, new rounds, growth.

    How long a round may drain is its agents' business: each knows its grace period and how long
    its ranks step and save, ends those that take longer, and tells.
    """
    for member in list(gang.members.values()):
        if _is_lost(gang, member, now):
            gang = _forget(gang, member.id, now)
    if gang.round and gang.status != "running" and not _still_inside(gang):
        gang = replace(
            _set_status(gang, "forming", now),
            round=None,
            closed=max(gang.closed, gang.round.number),
            previous=tuple(name_of(m) for m in gang.round.members),
            changed_at=now,
        )
    if gang.outcome is not None:
        return gang
    if gang.round is None:
        return _form(gang, now)
    return _grow(gang, now)


def _counts(gang: Gang, beat: Beat, outcome: Outcome) -> bool:
    """Whether an outcome is the attempt's.

    A result is one whoever tells of it. The failure of a round that is over for the others is
    history: its launcher was stopped or cut off meanwhile.
    """
    latest = max(beat.left, beat.round.number if beat.round else 0)
    return outcome.code == EXIT_COMPLETE or latest >= gang.number


def _learn(gang: Gang, beat: Beat, now: float) -> Gang:
    """Take over what a beat knows of rounds that this store never saw."""
    running = beat.round
    known = max(beat.seen, beat.left, running.number if running else 0)
    if known > gang.number:
        # The store is younger than the gang: give nodes with running ranks time to come back.
        gang = replace(gang, number=known, hold_until=now + gang.timing.recovery)
    if running is None or running.number <= gang.closed or beat.state == "gone":
        return gang
    if gang.round is None and running.number == gang.number:
        return _adopt(gang, running, now)
    if gang.round is not None and running.number > gang.round.number:
        # Two rounds under way, which takes a store that was lost and agents cut off for longer
        # than the recovery time: end both.
        return _end(gang, "broken", now)
    return gang


def _adopt(gang: Gang, running: Round, now: float) -> Gang:
    members = dict(gang.members)
    arrivals = gang.arrivals
    for member_id in running.members:
        if member_id not in members:
            arrivals += 1
            members[member_id] = Member(
                member_id, "", 0, "running", arrivals, now, number=running.number
            )
    gang = replace(
        gang, members=members, arrivals=arrivals, round=running, progressed_at=now, hold_until=now
    )
    return _set_status(gang, "running", now)


def _update(gang: Gang, beat: Beat, now: float) -> Gang:
    old = gang.members.get(beat.id)
    arrivals = gang.arrivals + (old is None)
    member = Member(
        id=beat.id,
        address=beat.address,
        port=beat.port,
        state=beat.state,
        order=old.order if old else arrivals,
        heard_at=now,
        number=beat.round.number if beat.round else 0,
        left=beat.left,
        progress=beat.progress,
    )
    changed = beat.state == "waiting" and (old is None or old.state != "waiting")
    alive = _is_inside(gang, member) and (old is None or beat.progress > old.progress)
    return replace(
        _with(gang, member),
        arrivals=arrivals,
        changed_at=now if changed else gang.changed_at,
        progressed_at=now if alive else gang.progressed_at,
    )


def _leave(gang: Gang, beat: Beat, now: float) -> Gang:
    """End the round if a member leaves it, gently if it leaves at a step boundary."""
    current = gang.round
    if current is None or beat.id not in current.members:
        return gang
    if beat.state == "leaving":
        return _end(gang, "draining", now)
    if beat.state == "waiting" and beat.left >= current.number:
        return _end(gang, "draining" if beat.clean else "broken", now)
    return gang


def _end(gang: Gang, wanted: Status, now: float) -> Gang:
    """Let the round drain or break. Its end only gets worse: a broken round is never drained."""
    if gang.round is None or gang.status not in ("running", "draining"):
        return gang
    if any(_is_due(gang.round, m) for m in gang.members.values()):
        wanted = "broken"  # ranks that wait for a node which never came reach no step boundary
    worse = wanted == "broken" or gang.status == "running"
    return _set_status(gang, wanted, now) if worse else gang


def _forget(gang: Gang, member_id: str, now: float, *, clean: bool = False) -> Gang:
    """Remove a node; a round that it was part of ends."""
    member = gang.members.get(member_id)
    if member is None:
        return gang
    was_inside = _is_inside(gang, member)
    members = {k: v for k, v in gang.members.items() if k != member_id}
    gang = replace(gang, members=members, changed_at=now)
    return _end(gang, "draining" if clean else "broken", now) if was_inside else gang


def _is_lost(gang: Gang, member: Member, now: float) -> bool:
    timing = gang.timing
    if member.hung_up_at is not None and now - member.hung_up_at > timing.hangup:
        return True
    silent = now - member.heard_at > timing.dead
    if silent and gang.status in ("running", "draining") and _is_inside(gang, member):
        # A stopped agent does no harm while its ranks work: the steps of the whole gang prove
        # that they do, and its ranks leave with the others. A lost node stops them all.
        return now - max(gang.progressed_at, gang.since) > timing.dead
    return silent


def _is_inside(gang: Gang, member: Member) -> bool:
    """Whether ranks of the current round run on this node, or will."""
    current = gang.round
    return current is not None and member.id in current.members and member.left < current.number


def _is_due(current: Round, member: Member) -> bool:
    """Whether a node of this round has yet to start its ranks.

    It may still have those of the round before, if that broke before the node told that it ran.
    """
    inside = member.id in current.members and member.left < current.number
    return inside and member.number != current.number


def _waiting(gang: Gang) -> list[Member]:
    """Nodes that the next round can count on."""
    return [m for m in gang.members.values() if m.state == "waiting" and m.hung_up_at is None]


def _still_inside(gang: Gang) -> bool:
    """Whether ranks run on any node."""
    return any(m.number > 0 for m in gang.members.values())


def _form(gang: Gang, now: float) -> Gang:
    waiting = _waiting(gang)
    size = gang.rules.fit(len(waiting))
    if not size or now < gang.hold_until or _still_inside(gang):
        return gang
    names = {name_of(m.id) for m in waiting}
    all_back = bool(gang.previous) and names.issuperset(gang.previous)
    full = size == gang.rules.fit(gang.rules.high)
    if not (all_back or full or now - gang.changed_at >= gang.timing.quiet):
        return gang
    places = {name: place for place, name in enumerate(gang.previous)}
    waiting.sort(key=lambda m: (places.get(name_of(m.id), len(places)), m.order))
    chosen = waiting[:size]
    first, number = chosen[0], gang.number + 1
    formed = Round(number, tuple(m.id for m in chosen), first.address, first.port)
    gang = replace(gang, number=number, round=formed, progressed_at=now)
    return _set_status(gang, "running", now)


def _grow(gang: Gang, now: float) -> Gang:
    """Ask a running round to stop at a step boundary when more nodes can take part."""
    if gang.round is None or gang.status != "running":
        return gang
    inside = set(gang.round.members)
    surplus = sum(m.id not in inside for m in _waiting(gang))
    larger = gang.rules.fit(len(inside) + surplus) > len(inside)
    settled = now - gang.since >= gang.timing.growth and now - gang.changed_at >= gang.timing.quiet
    return _end(gang, "draining", now) if larger and settled else gang


def _set_status(gang: Gang, status: Status, now: float) -> Gang:
    return replace(gang, status=status, since=now)


def _with(gang: Gang, member: Member) -> Gang:
    return replace(gang, members={**gang.members, member.id: member})
