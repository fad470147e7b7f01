"""owner.json: whose a folder is, and the newest attempt of each stage that writes there: the fence.

{"name": "my-run", "uid": "5c1f...", "attempts": {"preprocess": 1, "train": 3}}
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from pangu_core.checkpoint import durable
from pangu_core.config.stages import RunIdentity
from pangu_core.errors import WorkspaceError

OWNER_FILE: Final = "owner.json"


@dataclass(frozen=True)
class Owner:
    """What the file holds. Attempts are counted for each stage by itself."""

    name: str
    uid: str
    attempts: dict[str, int] = field(default_factory=dict)


_ADAPTER: Final = TypeAdapter(Owner)


def claim(folder: Path, run: RunIdentity, stage: str) -> None:
    """Record that this attempt of a stage writes in a folder; strangers and older ones may not.

    Raises:
        WorkspaceError: another run or a newer attempt owns the folder.
    """
    owner = check(folder, run, stage)
    if owner.attempts.get(stage) != run.attempt:
        attempts = {**owner.attempts, stage: run.attempt}
        folder.mkdir(parents=True, exist_ok=True)
        durable.replace_json(
            folder / OWNER_FILE, asdict(Owner(name=run.name, uid=run.uid, attempts=attempts))
        )


def check(folder: Path, run: RunIdentity, stage: str) -> Owner:
    """Who owns a folder; the run itself if nobody did.

    Raises:
        WorkspaceError: another run or a newer attempt of the stage.
    """
    owner = _read(folder / OWNER_FILE) or Owner(name=run.name, uid=run.uid)
    if owner.uid != run.uid:
        raise WorkspaceError(
            str(folder),
            seen=f"owned by run {owner.name} ({owner.uid})",
            rule=f"run {run.name} ({run.uid}) must not write over another's results",
            fix="give the job another name, or delete the old run's folder",
        )
    newest = owner.attempts.get(stage, 0)
    if newest > run.attempt:
        raise WorkspaceError(
            str(folder),
            seen=f"attempt {run.attempt} of {stage}",
            rule=f"a newer attempt ({newest}) owns this folder",
            fix="nothing: this attempt was replaced and may end",
        )
    return owner


def _read(path: Path) -> Owner | None:
    try:
        return _ADAPTER.validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]["msg"]
        raise WorkspaceError(
            str(path),
            seen=problem,
            rule="must be an owner's name, uid and attempts",
            fix="delete it if no job runs",
        ) from error
