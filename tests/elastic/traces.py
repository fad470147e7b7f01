"""What a gang's run leaves behind: metrics, rounds, samples, the final state."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class RoundChange:
    """A line of the store's log: a round began, drains, or broke."""

    number: int
    status: str
    members: tuple[str, ...]  # names, in rank order


def rounds(store_log: str) -> list[RoundChange]:
    """All changes of rounds in a store's log, in order."""
    found = re.findall(r"gang \S+ round (\d+) (\w+): (.*)", store_log)
    return [
        RoundChange(int(n), status, tuple(m.rpartition("#")[0] for m in members.split()))
        for n, status, members in found
    ]


def metrics(run: Path, event: str | None = None) -> list[dict[str, Any]]:
    """Whole lines of a run's metrics.jsonl, of one event or all."""
    path = run / "metrics.jsonl"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = text[: text.rfind("\n") + 1].splitlines()
    return [e for e in map(json.loads, lines) if event in (None, e["event"])]


def surviving_samples(run: Path) -> dict[int, list[int]]:
    """Sample numbers by step, from the history that was not redone.

    A round's steps after the one that a later round resumed from were redone. Rounds are in the
    order in which they loaded.
    """
    origins = [(e["attempt"], e["round"]) for e in metrics(run, "start")]
    resumed = [e["step"] for e in metrics(run, "start")]
    kept: dict[int, list[int]] = {}
    for line in _sample_lines(run / "samples"):
        later = resumed[origins.index((line["attempt"], line["round"])) + 1 :]
        if line["step"] <= min(later, default=line["step"]):
            kept.setdefault(line["step"], []).extend(line["samples"])
    return {step: sorted(samples) for step, samples in sorted(kept.items())}


def _sample_lines(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("*.jsonl")):
        yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())


def final(run: Path) -> dict[str, np.ndarray]:
    """Every tensor of the final checkpoint, moments included."""
    # Loads torch, which not every user wants.
    from pangu_core.checkpoint.reader import Checkpoint
    from pangu_core.checkpoint.store import find_checkpoint
    from pangu_core.layout import whole

    checkpoint = Checkpoint.open(find_checkpoint(run / "checkpoints"))
    assert checkpoint.manifest.final, checkpoint.folder
    shapes = {s.key: s.shape for s in checkpoint.manifest.slices}
    return {key: checkpoint.read(key, whole(shape)).numpy() for key, shape in shapes.items()}


def distance(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> float:
    """The largest difference of two numbers in the same place; 0 only for the very same tensors."""
    assert found.keys() == wanted.keys()
    return float(np.max([np.abs(found[key] - wanted[key]).max() for key in wanted]))
