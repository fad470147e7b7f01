"""The status of a job and of a service: what is stored in the objects' ``status``.

A job's is in runs/<name>/status.json as well.

Plain frozen values; ``to_dict`` gives the camelCase form with RFC 3339 times, ``from_dict`` reads
it back. Times are whole unix seconds, as metav1.Time has no fractions.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BeforeValidator, ConfigDict, PlainSerializer, TypeAdapter, WithJsonSchema
from pydantic.alias_generators import to_camel

from k8s.marks import keyed
from pangu_core.config.base import FIELD_DOCS_VARIABLE

Phase = Literal[
    "Pending",
    "Running",
    "Restarting",
    "Suspending",
    "Suspended",
    "Complete",
    "Failed",
    "Cancelled",
]
StageState = Literal["Pending", "Running", "Succeeded", "Skipped", "Failed"]
Outcome = Literal["Succeeded", "Skipped", "Failed", "Stopped"]
Truth = Literal["True", "False", "Unknown"]

# Unknown keys are dropped, so that an older reader copes with a newer writer's status.
CAMEL: Final = ConfigDict(
    alias_generator=to_camel,
    populate_by_name=True,
    extra="ignore",
    use_attribute_docstrings=FIELD_DOCS_VARIABLE in os.environ,
)


def to_rfc3339(seconds: int) -> str:
    """A time as the API server writes it, e.g. 2026-01-31T08:00:00Z."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def from_rfc3339(text: Any) -> Any:
    """Unix seconds of an RFC 3339 time; numbers pass through."""
    return int(datetime.fromisoformat(text).timestamp()) if isinstance(text, str) else text


def _finite(number: float) -> float | None:
    """A number that JSON has; a loss may be none."""
    return number if math.isfinite(number) else None


Time = Annotated[
    int,
    BeforeValidator(from_rfc3339),
    PlainSerializer(to_rfc3339, when_used="unless-none"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
Number = Annotated[float, PlainSerializer(_finite, when_used="unless-none")]


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
    pod_uids: tuple[str, ...] = ()
    """Pods of this replica that were counted and may still be seen."""


@dataclass(frozen=True)
class Attempt:
    """The live attempt of a job; there is at most one."""

    __pydantic_config__: ClassVar[ConfigDict] = CAMEL
    stage: str
    number: int
    created_at: Time
    seen: bool = False
    """Its main object was observed, so its absence means deletion."""
    short_since: Time | None = None
    """Since when fewer pods than the minimum run."""
    kept_pods: int | None = None
    """How many ran when it kept them, though short, as the eldest of those that wait."""
    min_nodes: int | None = None
    """Of training: the world sizes that its pods were told."""
    max_nodes: int | None = None
    replicas: int | None = None
    """Workers asked for, where surplus ones were given back; else all that the job may have."""
    surplus_since: Time | None = None
    """Since when pods run that the gang has no place for."""
    regrow_at: Time | None = None
    """When all workers are asked for again."""
    give_backs: int = 0
    """How often in a row surplus was given back."""
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
    attempt: int = 0
    """The highest number used so far."""
    settings_hash: str = ""
    """Of the settings that the latest attempt ran with."""
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
    loss: Number | None = None
    validation_loss: Number | None = None
    tokens_per_second: Number | None = None
    eta_seconds: int | None = None


@dataclass(frozen=True)
class Notice:
    """The call about a job's end."""

    __pydantic_config__: ClassVar[ConfigDict] = CAMEL
    number: int
    """Counts the job's ends."""
    seen: bool = False
    """Its objects were observed, so they are not made again."""


@dataclass(frozen=True)
class GpuUsage:
    """GPU-seconds up to a moment, and the rates since then."""

    __pydantic_config__: ClassVar[ConfigDict] = CAMEL
    used_seconds: int = 0
    """All that running pods held."""
    redone_seconds: int = 0
    """Of them, for steps that had been made before."""
    waiting_seconds: int = 0
    """Of them, from the start of pods and rounds to the first step."""
    surplus_seconds: int = 0
    """Of them, by pods that the gang had no place for."""
    counted_at: Time | None = None
    held: int = 0
    """GPUs of running pods."""
    surplus: int = 0
    """Of them, those of surplus pods."""
    doing: Literal["nothing", "wait", "train", "redo"] = "nothing"
    """What the others do."""
    furthest_step: int = 0


@dataclass(frozen=True)
class Summary:
    """What ``kubectl get`` shows: a column can show one field, and as it is."""

    __pydantic_config__: ClassVar[ConfigDict] = CAMEL
    nodes: str = ""
    """Trainers that run, and how many may, e.g. 2/4."""
    progress: str = ""
    """E.g. 34%."""
    loss: str = ""
    restarts: str = ""
    """Charges within the window, and how many may be, e.g. 1/5."""


@dataclass(frozen=True)
class JobStatus:
    """Everything that the next reconcile has to remember."""

    __pydantic_config__: ClassVar[ConfigDict] = CAMEL
    phase: Phase = "Pending"
    observed_generation: int = 0
    conditions: Annotated[tuple[Condition, ...], keyed("type")] = ()
    stages: Annotated[tuple[StageStatus, ...], keyed("name")] = ()
    attempt: Attempt | None = None
    history: tuple[PastAttempt, ...] = ()
    charges: tuple[Time, ...] = ()
    """When the restart budget was charged, within its window."""
    restarts: dict[str, int] = field(default_factory=dict)
    """Cause -> count."""
    retry_at: Time | None = None
    progress: ProgressStatus | None = None
    summary: Summary | None = None
    gpu: GpuUsage | None = None
    """Of the whole job, all its attempts and starts; none without GPUs."""
    started_at: Time | None = None
    """First attempt since the job was created or resumed."""
    completed_at: Time | None = None
    exit_code: int | None = None
    notice: Notice | None = None
    reruns: int = 0
    """The number of the last ``rerun`` that was taken up."""

    @property
    def is_terminal(self) -> bool:
        """Whether the job has ended; only a new ``rerun`` starts it again."""
        return self.phase in ("Complete", "Failed", "Cancelled")

    def stage(self, name: str) -> StageStatus:
        """The entry of a stage; a fresh one if it has none yet."""
        return next((s for s in self.stages if s.name == name), StageStatus(name))

    def condition(self, kind: str) -> Condition | None:
        """The condition of a type."""
        return next((c for c in self.conditions if c.type == kind), None)


@dataclass(frozen=True)
class ServiceStatus:
    """The pods of a service, and where it answers."""

    __pydantic_config__: ClassVar[ConfigDict] = CAMEL
    observed_generation: int = 0
    conditions: Annotated[tuple[Condition, ...], keyed("type")] = ()
    replicas: int = 0
    ready_replicas: int = 0
    updated_replicas: int = 0
    selector: str = ""
    """Of its pods, as text: the scale subresource reads it."""
    address: str | None = None

    def condition(self, kind: str) -> Condition | None:
        """The condition of a type."""
        return next((c for c in self.conditions if c.type == kind), None)


def to_dict(status: JobStatus | ServiceStatus) -> dict[str, Any]:
    """JSON-ready camelCase values; what is not set is left out."""
    adapter: TypeAdapter[Any] = _of_jobs() if isinstance(status, JobStatus) else _of_services()
    values: dict[str, Any] = adapter.dump_python(
        status, mode="json", by_alias=True, exclude_none=True
    )
    return values


def from_dict(values: Mapping[str, Any]) -> JobStatus:
    """Read back what ``to_dict`` gave of a job; unknown keys are dropped."""
    return _of_jobs().validate_python(dict(values))


def service_from_dict(values: Mapping[str, Any]) -> ServiceStatus:
    """Read back what ``to_dict`` gave of a service; unknown keys are dropped."""
    return _of_services().validate_python(dict(values))


@cache
def _of_jobs() -> TypeAdapter[JobStatus]:
    return TypeAdapter(JobStatus)


@cache
def _of_services() -> TypeAdapter[ServiceStatus]:
    return TypeAdapter(ServiceStatus)
