"""owner.json: whose a folder is, and who of each stage writes there: the fence.

{"name": "my-run", "uid": "5c1f...", "attempts": {"train": 3}, "claims": {"train": "9d0a..."}}

Another run is a stranger, unless it names the owner in ``resumeFrom``; the owner of before is one then.
A lower attempt than the newest is shut out. Within an attempt of training, ranks of a round that
the rendezvous gave up may live on, unseen since their launcher is stopped or cut off: each round
claims the folder before it loads, under a token of its own, and the one before may commit no more.
"""

import secrets
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from pangu_core.checkpoint import durable
from pangu_core.config.stages import RunIdentity
from pangu_core.errors import RendezvousError, WorkspaceError

OWNER_FILE: Final = "owner.json"


@dataclass(frozen=True)
class Owner:
    """What the file holds. Attempts are counted for each stage by itself."""

    name: str
    uid: str
    attempts: dict[str, int] = field(default_factory=dict)
    claims: dict[str, str] = field(default_factory=dict)
    former: tuple[str, ...] = ()
    """Uids of the runs whose folder it was: what a run gave up it does not take back."""


_ADAPTER: Final = TypeAdapter(Owner)


def claim(folder: Path, run: RunIdentity, stage: str) -> str:
    """Record that this attempt of a stage writes in a folder; strangers and older ones may not.

    Returns the token of this claim, which ends those before.

    Raises:
        WorkspaceError: another run or a newer attempt owns the folder.
    """
    owner, token = check(folder, run, stage), secrets.token_hex(8)
    attempts = {**owner.attempts, stage: run.attempt}
    claims = {**owner.claims, stage: token}
    folder.mkdir(parents=True, exist_ok=True)
    claimed = replace(owner, attempts=attempts, claims=claims)
    durable.replace_json(folder / OWNER_FILE, asdict(claimed))
    return token


def check(folder: Path, run: RunIdentity, stage: str, *, token: str = "") -> Owner:
    """Who owns a folder; the run itself if nobody did.

    Args:
        folder: where ``owner.json`` lies.
        run: who asks.
        stage: for which stage.
        token: of the claim that must still hold; empty: any does.

    Raises:
        WorkspaceError: another run or a newer attempt of the stage.
        RendezvousError: a later round of this attempt claimed the folder.
    """
    owner = _read(folder / OWNER_FILE) or Owner(name=run.name, uid=run.uid)
    if run.uid in owner.former or not run.may_continue(uid=owner.uid, name=owner.name):
        raise WorkspaceError(
            str(folder),
            seen=f"owned by run {owner.name} ({owner.uid})",
            rule=f"run {run.name} ({run.uid}) must not write over another's results",
            fix="give the job another name, delete the old run's folder, or name the old run in "
            "resumeFrom",
        )
    if owner.uid != run.uid:  # its attempts and claims are not counted on
        owner = Owner(name=run.name, uid=run.uid, former=(*owner.former, owner.uid))
    newest = owner.attempts.get(stage, 0)
    if newest > run.attempt:
        raise WorkspaceError(
            str(folder),
            seen=f"attempt {run.attempt} of {stage}",
            rule=f"a newer attempt ({newest}) owns this folder",
            fix="nothing: this attempt was replaced and may end",
        )
    latest = owner.claims.get(stage, token)
    if token and latest != token:
        raise RendezvousError(
            str(folder),
            seen=f"claim {latest} of {stage}, not ours ({token})",
            rule="a later round of this attempt writes here",
            fix="nothing: this round was given up by the others and may end",
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
