"""failures.json: how often training from one checkpoint failed. It breaks loops of restarts.

Hashes prove that a checkpoint is what was written, not that one can train from it: if its numbers
have gone bad, every restart fails as the one before did. So each attempt that ends that way is
recorded beside the checkpoints, and after some of them loading stops with a diagnosis.

{"checkpoint": "step-00000300", "manifest_sha256": "9f2b...", "settings": "77ad...",
 "attempts": [4, 5], "error": "step 301: loss nan: ..."}
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from pangu_core.checkpoint import durable
from pangu_core.errors import CheckpointError

FILE_NAME: Final = "failures.json"
# Training failed this often from the same checkpoint: the next attempt would as well.
MOST: Final = 3
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Origin:
    """What an attempt trains from."""

    checkpoint: str  # its folder's name
    manifest_sha256: str
    settings: str  # a fingerprint of what decides the numbers: others may fare better

    @classmethod
    def of(cls, folder: Path, manifest_sha256: str, *, settings: Mapping[str, Any]) -> "Origin":
        """The origin that is this checkpoint, trained with these settings."""
        text = json.dumps(settings, sort_keys=True)
        return cls(folder.name, manifest_sha256, durable.sha256(text.encode()))


@dataclass(frozen=True)
class Setbacks:
    """What the file holds."""

    checkpoint: str
    manifest_sha256: str
    settings: str
    attempts: tuple[int, ...]
    error: str

    def are_of(self, origin: Origin) -> bool:
        """Whether these attempts began as this one does."""
        return asdict(origin).items() <= asdict(self).items()


_ADAPTER: Final = TypeAdapter(Setbacks)


def record(root: Path, origin: Origin, *, attempt: int, error: str) -> None:
    """Count an attempt that failed, once.

    Raises:
        OSError: the volume refused.
    """
    before = _read(root)
    attempts = {*before.attempts} if before and before.are_of(origin) else set()
    found = Setbacks(**asdict(origin), attempts=(*sorted(attempts | {attempt}),), error=error)
    durable.replace_json(root / FILE_NAME, asdict(found))


def refuse_loop(root: Path, origin: Origin) -> None:
    """Refuse to train from a checkpoint from which training failed too often.

    Raises:
        CheckpointError: which one, how often, how it ended, and what to do.
    """
    found = _read(root)
    if found and found.are_of(origin) and len(found.attempts) >= MOST:
        raise CheckpointError(
            str(root / found.checkpoint),
            seen=f"{len(found.attempts)} attempts to train from it failed, the last with: "
            f"{found.error}",
            rule="training must get from one checkpoint to the next",
            fix="delete this folder to go back to the checkpoint before, "
            "or lower train.optimizer.learningRate",
        )


def forget(root: Path) -> None:
    """A newer checkpoint was committed: training does get on."""
    (root / FILE_NAME).unlink(missing_ok=True)


def _read(root: Path) -> Setbacks | None:
    path = root / FILE_NAME
    try:
        return _ADAPTER.validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        logger.warning("%s counts for nothing: %s", path, error.errors(include_url=False)[0]["msg"])
        return None
