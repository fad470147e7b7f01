"""Which samples a rank trained on, as JSON lines: the proof that none is lost or seen twice."""

import json
from pathlib import Path
from typing import Self

from pangu_core.training.step import MicroBatch


class SampleLog:
    """Appends one line a step to this rank's file; ranks of later rounds go on with it.

    Steps that were done again after a fault have a line for each round. The ``start`` events in
    metrics.jsonl say from which step a round went on: what earlier rounds did beyond it was redone.
    """

    def __init__(self, folder: Path, *, rank: int, attempt: int, round_number: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / f"rank-{rank:05d}.jsonl").open("a", encoding="utf-8")
        self._origin = {"attempt": attempt, "round": round_number}

    def write(self, step: int, batches: list[MicroBatch]) -> None:
        """Note the samples of a step that is done, fillers left out; a kill loses nothing."""
        samples = [int(i) for _, batch in batches for i in batch.sample_ids if i >= 0]
        self._file.write(json.dumps({**self._origin, "step": step, "samples": samples}) + "\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
