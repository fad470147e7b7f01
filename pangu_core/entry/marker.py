"""Stage markers: a stage whose output is already there ends at once, as skipped.

A marker holds the fingerprint of what the stage read (settings, and path, size and modification
time of each input file) and what it wrote. It is written last, so a half-done stage has none.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pangu_core.checkpoint import ownership
from pangu_core.config.base import Settings
from pangu_core.config.stages import RunIdentity
from pangu_core.messages import Termination
from pangu_core.workspace import RunPaths, resolve


def fingerprint(config: Settings, inputs: Iterable[Path]) -> str:
    """SHA-256 over the settings (the run's identity left out) and the input files' stat."""
    settings = {k: v for k, v in config.dump().items() if k != "run"}
    files = [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in sorted(inputs)]
    text = json.dumps([settings, files], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def run_once(
    stage: str,
    run: RunIdentity,
    print_of_inputs: str,
    work: Callable[[], Termination],
    *,
    still_there: Callable[[], bool],
) -> Termination:
    """Do ``work`` unless a marker with the same fingerprint says that it was done.

    ``still_there`` checks that the output which the marker speaks of exists.

    Raises:
        WorkspaceError: another run or a newer attempt owns the run's folder.
    """
    paths = RunPaths(run.name)
    ownership.claim(resolve(paths.root), run, stage)
    path = resolve(paths.stage_marker(stage))
    marker = _read(path)
    if marker.get("fingerprint") == print_of_inputs and still_there():
        return Termination(code=0, skipped=True, output=marker.get("output"))
    result = work()
    write_json(path, {"fingerprint": print_of_inputs, "output": result.output})
    return result


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file as a whole: a reader sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
