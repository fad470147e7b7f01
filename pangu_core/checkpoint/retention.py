"""Which checkpoints stay. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Rules:
    """What to keep; a checkpoint stays if any of the rules wants it."""

    keep: int  # the newest ones; the newest of all stays even for 0
    keep_every: int | None = None  # steps that are multiples of it
    keep_best: int = 0  # the lowest validation losses


@dataclass(frozen=True)
class Candidate:
    """What the rules ask about a checkpoint."""

    name: str
    step: int
    final: bool = False
    validation_loss: float | None = None


def superfluous(candidates: Sequence[Candidate], rules: Rules) -> list[Candidate]:
    """The checkpoints that no rule keeps, newest first; a final one always stays.

    Of two with the same validation loss the earlier is the better: it is closer to the
    evaluation.
    """
    newest_first = sorted(candidates, key=lambda c: c.step, reverse=True)
    measured = [c for c in newest_first if c.validation_loss is not None]
    best_first = sorted(measured, key=lambda c: (c.validation_loss, c.step))
    kept = {*newest_first[: max(rules.keep, 1)], *best_first[: rules.keep_best]}
    return [
        candidate
        for candidate in newest_first
        if not (
            candidate in kept
            or candidate.final
            or (rules.keep_every and candidate.step % rules.keep_every == 0)
        )
    ]
