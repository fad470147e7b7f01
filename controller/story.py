"""How a run is told to a person, wherever it runs: what there is to show, and who shows it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from controller.observe import AttemptView
from k8s.status import JobStatus, ProgressStatus
from pangu_core.messages import Progress


@dataclass(frozen=True)
class Snapshot:
    """What there is to show at one moment."""

    status: JobStatus
    attempts: tuple[AttemptView, ...]  # none where only the status can be seen
    now: float

    @property
    def progress(self) -> Progress | None:
        """The live attempt's own answer; from afar, the one that its status noted."""
        live = self.status.attempt
        views = [
            a for a in self.attempts if live and (a.stage, a.number) == (live.stage, live.number)
        ]
        if views:
            return views[0].progress
        noted = self.status.progress
        return as_progress(noted) if live and noted and live.max_nodes else None


class Reporter(Protocol):
    """Tells a person what happens."""

    def tell(self, sentences: Sequence[str]) -> None:
        """Say what changed."""

    def show(self, snapshot: Snapshot) -> None:
        """Show the state; called several times a second."""


def as_progress(noted: ProgressStatus) -> Progress:
    """A launcher's answer as the status noted it."""
    return Progress(
        phase=noted.phase,
        step=noted.step,
        steps=noted.steps,
        loss=noted.loss,
        validation_loss=noted.validation_loss,
        tokens_per_second=noted.tokens_per_second,
    )
