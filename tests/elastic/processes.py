"""What processes of a gang are, seen from outside."""

import psutil

from pangu_core.launch.rank_names import read_rank_name


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or waits for its parent to notice."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def children_of(pid: int) -> list[psutil.Process]:
    """What a process started and has not ended; empty for one that is gone."""
    try:
        return psutil.Process(pid).children()
    except psutil.NoSuchProcess:
        return []


def place_of(process: psutil.Process) -> tuple[int, int] | None:
    """Rank and round of a training process; None for a spare one, and for one that has ended."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        if place := read_rank_name(process.name()):
            return place
        variables = process.environ()  # until it has a name; a spare's tell no round
    except (psutil.Error, OSError):
        return None
    if "PANGU_ROUND" not in variables:
        return None
    return int(variables["RANK"]), int(variables["PANGU_ROUND"])
