"""What pods say to whoever watches them: progress while they run, one message when they end.

Both are JSON; the controller decides from these alone and needs no access to pod logs.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

# Kubernetes keeps at most 4096 bytes of a container's termination message.
TERMINATION_LIMIT_BYTES: Final = 4096
TERMINATION_PATH_VARIABLE: Final = "PANGU_TERMINATION_PATH"


@dataclass(frozen=True)
class Termination:
    """The last word of a pod."""

    code: int
    error: str | None = None  # class of the error
    message: str = ""
    rank: int | None = None  # first failing rank
    traceback: str = ""  # its end
    step: int | None = None  # last optimizer step
    loss: float | None = None
    output: str | None = None  # workspace-relative path of the result
    manifest_sha256: str | None = None
    skipped: bool = False  # the output was already there

    def to_json(self) -> str:
        """One JSON object of at most 4 KiB; the traceback's beginning gives way first."""
        values = asdict(self)
        text = _encode(values)
        for name in ("traceback", "message"):
            excess = len(text.encode()) - TERMINATION_LIMIT_BYTES
            while excess > 0 and values[name]:
                values[name] = values[name][max(1, excess // 6) :]
                text = _encode(values)
                excess = len(text.encode()) - TERMINATION_LIMIT_BYTES
        return text

    @classmethod
    def from_json(cls, text: str) -> "Termination | None":
        """Read a message back; None if it is not one of ours (an OOM kill leaves none)."""
        try:
            values = json.loads(text)
            known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
            return cls(**known)
        except (ValueError, TypeError):
            return None

    def write(self) -> None:
        """Write to the path the pod's environment names; without one, do nothing."""
        path = os.environ.get(TERMINATION_PATH_VARIABLE)
        if path:
            Path(path).write_text(self.to_json(), encoding="utf-8")


@dataclass(frozen=True)
class Progress:
    """What the launcher answers on /progress."""

    phase: str  # wait, start, compile, step, evaluate, save, done
    step: int = 0
    steps: int = 0
    loss: float | None = None
    validation_loss: float | None = None
    tokens_per_second: float | None = None
    last_step_age_seconds: float | None = None
    heartbeat_age_seconds: float | None = None  # None: no rank runs, or none has spoken yet
    skipped_steps: int | None = None  # without an update, as a number was not finite
    round: int = 0
    world_size: int = 0
    restarts: dict[str, int] = field(default_factory=dict)  # cause -> count

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Progress":
        """Read an answer back; unknown keys are ignored, so that versions may differ."""
        values: dict[str, Any] = json.loads(text)
        return cls(**{k: v for k, v in values.items() if k in cls.__dataclass_fields__})


def _encode(values: dict[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False)
