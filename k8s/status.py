"""A job's status: what is stored in the PanguJob's ``status`` and in runs/<name>/status.json.

Plain frozen values; ``to_dict`` gives the camelCase form with RFC 3339 times, ``from_dict`` reads
it back. Times are whole unix seconds, as metav1.Time has no fractions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BeforeValidator, ConfigDict, PlainSerializer, TypeAdapter
from pydantic.alias_generators import to_camel

Phase = Literal["Pending", "Running", "Restarting", "Suspending", "Suspended", "Complete", "Failed"]
StageState = Literal["Pending", "Running", "Succeeded", "Skipped", "Failed"]
Outcome = Literal["Succeeded", "Skipped", "Failed", "Stopped"]
Truth = Literal["True", "False", "Unknown"]

# Unknown keys are dropped, so that an older reader copes with a newer writer's status.
CAMEL: Final = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore")


def to_rfc3339(seconds: int) -> str:
    """A time as the API server writes it, e.g. 2026-01-31T08:00:00Z."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def from_rfc3339(text: Any) -> Any:
    """Unix seconds of an RFC 3339 time; numbers pass through."""
    return int(datetime.fromisoformat(text).timestamp()) if isinstance(text, str) else text


Time = Annotated[
    int, BeforeValidator(from_rfc3339), PlainSerializer(to_rfc3339, when_used="unless-none")
]


@dataclass(frozen=True)
class Condition:
    """One metav1 condition."""

    __pydantic_config__: ClassVar[ConfigDict] = CAMEL
    type: str
    status: Truth
    reason: str
    message: str
    last_transition_time: Time
    observed_generation: int


@dataclass(frozen=True)
class PodExit:
    """The last seen end of one replica's pod; tells a repeated failure from a new one."""

    __pydantic_config__: ClassVar[ConfigDict] = CAMEL
    replica: str
    code: int
    step: int | None = None
    pod_uids: tuple[str, ...] = ()  # pods of this replica that were counted and may still be seen


@dataclass(frozen=True)
class Attempt:
    """The live attempt of a job; there is at most one."""

    __pydantic_config__: ClassVar[ConfigDict] = CAMEL
    stage: str
    number: int
    created_at: Time
    seen: bool = False  # its main object was observed, so its absence means deletion
    short_since: Time | None = None  # since when fewer pods than the minimum run
    exits: tuple[PodExit, ...] = ()


@dataclass(frozen=True)
class PastAttempt:
    """An attempt that ended."""

    __pydantic_config__: ClassVar[ConfigDict] = CAMEL
    stage: str
    number: int
    outcome: Outcome
    cause: str
    charged: bool
    created_at: Time
    ended_at: Time
    code: int | None = None
    message: str = ""
    rank: int | None = None
    step: int | None = None


@dataclass(frozen=True)
class StageStatus:
    """One stage of the job."""

    __pydantic_config__: ClassVar[ConfigDict] = CAMEL
    name: str
    state: StageState = "Pending"
    attempt: int = 0  # the highest number used so far
    settings_hash: str = ""  # of the settings that the latest attempt ran with
    started_at: Time | None = None
    ended_at: Time | None = None
    output: str | None = None
    manifest_sha256: str | None = None

    @property
    def is_done(self) -> bool:
        """Whether the next stage may start."""
        return self.state in ("Succeeded", "Skipped")


@dataclass(frozen=True)
class ProgressStatus:
    """Where training is, at most as often as every 10 s."""

    __pydantic_config__: ClassVar[ConfigDict] = CAMEL
    phase: str
    step: int
    steps: int
    updated_at: Time
    loss: float | None = None
    validation_loss: float | None = None
    tokens_per_second: float | None = None
    eta_seconds: int | None = None


@dataclass(frozen=True)
class JobStatus:
    """Everything that the next reconcile has to remember."""

    __pydantic_config__: ClassVar[ConfigDict] = CAMEL
    phase: Phase = "Pending"
    observed_generation: int = 0
    conditions: tuple[Condition, ...] = ()
    stages: tuple[StageStatus, ...] = ()
    attempt: Attempt | None = None
    history: tuple[PastAttempt, ...] = ()
    charges: tuple[Time, ...] = ()  # when the restart budget was charged, within its window
    restarts: dict[str, int] = field(default_factory=dict)  # cause -> count
    retry_at: Time | None = None
    progress: ProgressStatus | None = None
    started_at: Time | None = None  # first attempt since the job was created or resumed
    completed_at: Time | None = None
    exit_code: int | None = None

    @property
    def is_terminal(self) -> bool:
        """Whether the job has ended for good."""
        return self.phase in ("Complete", "Failed")

    def stage(self, name: str) -> StageStatus:
        """The entry of a stage; a fresh one if it has none yet."""
        return next((s for s in self.stages if s.name == name), StageStatus(name))

    def condition(self, kind: str) -> Condition | None:
        """The condition of a type."""
        return next((c for c in self.conditions if c.type == kind), None)


def to_dict(status: JobStatus) -> dict[str, Any]:
    """JSON-ready camelCase values; what is not set is left out."""
    values: dict[str, Any] = _adapter().dump_python(
        status, mode="json", by_alias=True, exclude_none=True
    )
    return values


def from_dict(values: Mapping[str, Any]) -> JobStatus:
    """Read back what ``to_dict`` gave; unknown keys are dropped."""
    return _adapter().validate_python(dict(values))


@cache
def _adapter() -> TypeAdapter[JobStatus]:
    return TypeAdapter(JobStatus)
