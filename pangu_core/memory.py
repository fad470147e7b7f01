"""What memory this process may still use, and whether the kernel killed for it: cgroup's files."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

_ROOT: Final = Path("/sys/fs/cgroup")
_SELF: Final = Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Room:
    """Bytes of memory: the machine's or, where it is smaller, the cgroup's share of it."""

    available: int  # without taking anything from anybody but the page cache
    total: int


def room(root: Path = _ROOT, membership: Path = _SELF) -> Room:
    """What this process may still use, by the machine's account and by its cgroup's (v1 or v2)."""
    machine = psutil.virtual_memory()
    available, total = machine.available, machine.total
    for folder, names in _folders(root, membership):
        with contextlib.suppress(OSError, ValueError):  # no such file; "max" is no limit
            limit = int((folder / names.limit).read_text(encoding="ascii"))
            usage = int((folder / names.usage).read_text(encoding="ascii"))
            cache = _table(folder / "memory.stat").get(names.cache, 0)
            available = min(available, max(0, limit - usage + cache))
            total = min(total, limit)
    return Room(available, total)


def oom_kills(root: Path = _ROOT, membership: Path = _SELF) -> int:
    """Processes of this cgroup that the OOM killer ended so far; 0 where it cannot be read.

    Reads ``memory.events`` (cgroup v2) or ``memory.oom_control`` (v1), in the cgroup that
    ``/proc/self/cgroup`` names, or at the root as seen inside a container.
    """
    for folder, names in _folders(root, membership):
        with contextlib.suppress(OSError):
            counts = _table(folder / names.events)
            if "oom_kill" in counts:
                return counts["oom_kill"]
    return 0


@dataclass(frozen=True)
class _Names:
    """Files of a cgroup, and the row of memory.stat that counts cache which can be dropped."""

    limit: str
    usage: str
    events: str
    cache: str


_V1: Final = _Names(
    "memory.limit_in_bytes", "memory.usage_in_bytes", "memory.oom_control", "total_inactive_file"
)
_V2: Final = _Names("memory.max", "memory.current", "memory.events", "inactive_file")


def _folders(root: Path, membership: Path) -> list[tuple[Path, _Names]]:
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        inner = path.lstrip("/")
        if not controllers:
            found.append((root / inner, _V2))
        elif "memory" in controllers.split(","):
            found.append((root / "memory" / inner, _V1))
    return [*found, (root, _V2), (root / "memory", _V1)]


def _table(path: Path) -> dict[str, int]:
    lines = path.read_text(encoding="ascii").splitlines()
    rows = (line.split() for line in lines)
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}
