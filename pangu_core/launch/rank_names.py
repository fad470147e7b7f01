"""What a rank is called in ps and top; outside watchers find it by that name."""

import ctypes
import re
from typing import Final

SPARE_NAME: Final = "rank -"  # one that has loaded its libraries, and waits
_PR_SET_NAME: Final = 15  # linux/prctl.h; the kernel keeps 15 bytes
_NAME: Final = re.compile(r"rank (\d+)\.(\d+)")


def rank_name(rank: int, round_number: int) -> str:
    """The name of a rank in a round of the rendezvous."""
    return f"rank {rank}.{round_number}"


def read_rank_name(name: str) -> tuple[int, int] | None:
    """Rank and round of a process by its name; None: it is not a rank, or a spare one."""
    match = _NAME.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def name_this_process(name: str) -> None:
    """Set the name of this process, for ps -o comm, top and psutil."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode("ascii"))
