"""Where Megatron keeps what: a tracker file, a folder for the iteration, a file for each rank.

latest_checkpointed_iteration.txt             "1000", or "release"
iter_0001000/mp_rank_00/model_optim_rng.pt    or release/mp_rank_00/...
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pangu_core.errors import CheckpointError

TRACKER: Final = "latest_checkpointed_iteration.txt"
FILE: Final = "model_optim_rng.pt"
RELEASE: Final = "release"
_RANK: Final = re.compile(r"mp_rank_(\d{2,3})")
_ITERATION: Final = re.compile(r"(?:iter_)?0*(\d{1,15})")


@dataclass(frozen=True)
class Place:
    """The checkpoint that a tracker file points to."""

    iteration: int | None  # None: a release
    files: tuple[Path, ...]  # one for each model-parallel rank


def looks_like(source: Path) -> bool:
    """Whether a folder is laid out like this, be the tracker there or not."""
    return (source / TRACKER).is_file() or any(
        any(source.glob(pattern))
        for pattern in ("iter_*/mp_rank_*", "release/mp_rank_*", "mp_rank_*")
    )


def find(source: Path) -> Place:
    """The newest checkpoint of a folder.

    Raises:
        CheckpointError: there is no tracker file, or not all files that it points to.
    """
    try:
        word = (source / TRACKER).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(
            str(source),
            seen=f"no readable {TRACKER}",
            rule="that file says which iteration counts; without it no weights are loaded",
            fix="name the folder above iter_*, or write the number of the iteration into that file",
        ) from error
    iteration = None if word == RELEASE else iteration_of(word)
    if iteration is None and word != RELEASE:
        raise CheckpointError(
            str(source / TRACKER),
            seen=word,
            rule="must be the number of an iteration, or the word release",
            fix="write the number of one of the iter_* folders into it",
        )
    return Place(iteration, _files(source / folder_name(iteration)))


def folder_name(iteration: int | None) -> str:
    """Folder of an iteration, or of a release."""
    return RELEASE if iteration is None else f"iter_{iteration:07d}"


def file_of(folder: Path, rank: int) -> Path:
    """One rank's file below the folder of an iteration."""
    return folder / f"mp_rank_{rank:02d}" / FILE


def iteration_of(word: object) -> int | None:
    """The number in 1000, "0007800" or "iter_0007800"; None if there is none."""
    match = _ITERATION.fullmatch(str(word)) if isinstance(word, str | int) else None
    return int(match[1]) if match else None


def _files(folder: Path) -> tuple[Path, ...]:
    ranks = {
        int(match[1]): path / FILE
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (match := _RANK.fullmatch(path.name))
    }
    missing = [rank for rank in range(max(ranks, default=0) + 1) if rank not in ranks]
    if missing:
        raise CheckpointError(
            str(folder),
            seen=f"no mp_rank_{missing[0]:02d}",
            rule="must hold a folder for every model-parallel rank, from 00 on",
            fix="copy all of the folder",
        )
    return tuple(ranks[rank] for rank in sorted(ranks))
