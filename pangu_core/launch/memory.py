"""Whether the kernel killed a process of this pod for memory: the cgroup's own counter."""

from pathlib import Path
from typing import Final

_ROOT: Final = Path("/sys/fs/cgroup")
_SELF: Final = Path("/proc/self/cgroup")


def oom_kills(root: Path = _ROOT, membership: Path = _SELF) -> int:
    """Processes of this cgroup that the OOM killer ended so far; 0 where it cannot be read.

    Reads ``memory.events`` (cgroup v2) or ``memory.oom_control`` (v1), in the cgroup that
    ``/proc/self/cgroup`` names, or at the root as seen inside a container.
    """
    for path in _candidates(root, membership):
        try:
            lines = path.read_text(encoding="ascii").splitlines()
        except OSError:
            continue
        counts = dict(line.split(maxsplit=1) for line in lines if " " in line)
        if "oom_kill" in counts:
            return int(counts["oom_kill"])
    return 0


def _candidates(root: Path, membership: Path) -> list[Path]:
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        inner = path.lstrip("/")
        if not controllers:
            found.append(root / inner / "memory.events")
        elif "memory" in controllers.split(","):
            found.append(root / "memory" / inner / "memory.oom_control")
    return [*found, root / "memory.events", root / "memory" / "memory.oom_control"]
