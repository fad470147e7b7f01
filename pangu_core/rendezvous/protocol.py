"""What agents and the rendezvous store say to each other: JSON lines over TCP.

An agent sends a ``Beat`` a few times a second and gets a ``View`` back for each. A beat carries
everything that a store which lost its memory needs to know again. Must not import torch.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, Self, get_args

from pangu_core.errors import PanguError

VERSION: Final = 1
LINE_LIMIT_BYTES: Final = 65_536
DEFAULT_PORT: Final = 29_400

State = Literal["waiting", "running", "leaving", "gone"]
Command = Literal["wait", "start", "drain", "stop", "exit"]


class ProtocolError(ValueError):
    """A line that is not one of ours."""


@dataclass(frozen=True)
class Rules:
    """What a round must look like: a multiple of ``unit`` nodes, from ``low`` to ``high``."""

    unit: int
    low: int
    high: int

    def __post_init__(self) -> None:
        if not all(isinstance(n, int) for n in (self.unit, self.low, self.high)):
            raise ProtocolError("rules must be integers")
        if not (self.unit >= 1 and 1 <= self.low <= self.high and self.fit(self.high) >= self.low):
            raise ProtocolError(f"no world of {self.low} to {self.high} nodes by {self.unit}")

    def fit(self, count: int) -> int:
        """The largest world that ``count`` nodes can form; 0 if none."""
        size = min(count, self.high) // self.unit * self.unit
        return size if size >= self.low else 0


@dataclass(frozen=True)
class Round:
    """One gang: its nodes in rank order, and where its rank 0 listens."""

    number: int
    members: tuple[str, ...]
    master_address: str
    master_port: int


@dataclass(frozen=True)
class Outcome:
    """How the attempt ended, for every agent alike. Code 0: the result is committed."""

    code: int
    error: str | None = None
    message: str = ""
    traceback: str = ""
    rank: int | None = None
    step: int | None = None
    loss: float | None = None
    output: str | None = None
    manifest_sha256: str | None = None

    @classmethod
    def of(cls, error: PanguError) -> Self:
        """The outcome that an error makes."""
        return cls(code=error.exit_code, error=type(error).__name__, message=str(error))


@dataclass(frozen=True)
class Beat:
    """An agent's state.

    Attributes:
        gang: the attempt's rendezvous id; a store may serve several.
        id: name and incarnation, ``name#incarnation``.
        address: where other nodes reach this one.
        port: a free port there, used if this node becomes the first of a round.
        state: waiting (has no ranks), running, leaving (its pod was told to stop; ranks save),
            gone (the last beat).
        round: the round whose ranks run here.
        left: number of the last round that ran here and ended.
        seen: highest round number ever heard of.
        clean: the last round was left at a step boundary, so that its other nodes need not be
            killed.
        progress: a counter that grows with each sign of life of the local ranks.
        outcome: this node knows that the attempt is over.
    """

    gang: str
    rules: Rules
    id: str
    address: str
    port: int
    state: State
    round: Round | None = None
    left: int = 0
    seen: int = 0
    clean: bool = True
    progress: int = 0
    outcome: Outcome | None = None

    @property
    def name(self) -> str:
        """The pod's name, without the incarnation."""
        return name_of(self.id)


@dataclass(frozen=True)
class View:
    """The store's answer: what this agent should do, and the latest round."""

    command: Command
    number: int = 0
    round: Round | None = None
    outcome: Outcome | None = None


def name_of(member_id: str) -> str:
    """The pod's name within an agent's id."""
    return member_id.rpartition("#")[0]


def encode(message: Beat | View) -> bytes:
    """One line, newline included."""
    return json.dumps({"version": VERSION, **asdict(message)}).encode() + b"\n"


def decode_beat(line: bytes) -> Beat:
    """Read an agent's line.

    Raises:
        ProtocolError: it is not a beat of this version.
    """
    values = _read(line)
    beat: Beat = _build(
        Beat,
        values,
        rules=_build(Rules, values.get("rules")),
        round=_round(values.get("round")),
        outcome=_outcome(values.get("outcome")),
    )
    texts, numbers = (beat.gang, beat.id, beat.address), (beat.port, beat.left, beat.seen)
    well_typed = all(isinstance(x, str) and len(x) <= 512 for x in texts)
    if not well_typed or not all(isinstance(x, int) for x in (*numbers, beat.progress)):
        raise ProtocolError("a field of the beat has a wrong type")
    if beat.state not in get_args(State) or not beat.name:
        raise ProtocolError(f"state {beat.state!r} or id {beat.id!r} is unknown")
    if beat.state == "running" and (beat.round is None or beat.id not in beat.round.members):
        raise ProtocolError("a running node must be a member of its round")
    return beat


def decode_view(line: bytes) -> View:
    """Read the store's line.

    Raises:
        ProtocolError: it is not a view of this version.
    """
    values = _read(line)
    view: View = _build(
        View,
        values,
        round=_round(values.get("round")),
        outcome=_outcome(values.get("outcome")),
    )
    if view.command not in get_args(Command):
        raise ProtocolError(f"command {view.command!r} is unknown")
    return view


def _read(line: bytes) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("the line is not JSON") from error
    if not isinstance(values, dict) or values.pop("version", None) != VERSION:
        raise ProtocolError(f"the line is not an object of protocol version {VERSION}")
    return values


def _build(cls: type[Any], values: Any, **parts: Any) -> Any:
    if not isinstance(values, Mapping):
        raise ProtocolError(f"{cls.__name__} must be an object")
    try:
        return cls(**{**values, **parts})
    except TypeError as error:
        raise ProtocolError(f"{cls.__name__}: {error}") from error


def _outcome(values: Any) -> Outcome | None:
    if values is None:
        return None
    found: Outcome = _build(Outcome, values)
    if not isinstance(found.code, int):
        raise ProtocolError("an outcome's code must be an integer")
    return found


def _round(values: Any) -> Round | None:
    if values is None:
        return None
    members = values.get("members") if isinstance(values, Mapping) else None
    if not isinstance(members, list) or not members or not all(isinstance(m, str) for m in members):
        raise ProtocolError("a round must list its members")
    found: Round = _build(Round, values, members=tuple(members))
    numbers = (found.number, found.master_port)
    if not all(isinstance(n, int) for n in numbers) or not isinstance(found.master_address, str):
        raise ProtocolError("a field of the round has a wrong type")
    return found
