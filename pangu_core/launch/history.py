"""What a launcher remembers beyond a round, and what it reports of itself."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from pangu_core.launch.heartbeat import Pulse
from pangu_core.messages import Progress
from pangu_core.rendezvous.protocol import Round


@dataclass
class History:
    """What outlives a round."""

    left: int = 0
    seen: int = 0
    clean: bool = True
    beats: int = 0
    crashes: int = 0  # in a row, without a new step
    crash_step: int = 0
    pulse: Pulse = field(default_factory=lambda: Pulse(started_at=time.monotonic()))
    restarts: Counter[str] = field(default_factory=Counter)

    def end_round(self, number: int, pulses: Sequence[Pulse], *, clean: bool) -> None:
        """Keep what a round's ranks said last."""
        self.pulse = max(pulses, key=lambda p: p.step)
        self.beats += sum(p.beats for p in pulses)
        self.left, self.clean = number, clean

    def count_crash(self, step: int) -> int:
        """Note that a rank died after this step; how often in a row without a new one."""
        self.crashes = 1 if step > self.crash_step else self.crashes + 1
        self.crash_step = max(step, self.crash_step)
        return self.crashes


def progress_of(
    history: History, current: Round | None, pulses: Sequence[Pulse], *, processes: int, now: float
) -> Progress:
    """The answer to /progress: the node's first rank's words, or the last ones of the round before."""
    pulse = pulses[0] if pulses else history.pulse
    since, heard = pulse.stepped_at, pulse.heard_at
    return Progress(
        phase=pulse.phase if current else "wait",
        step=pulse.step,
        steps=pulse.steps,
        loss=pulse.loss,
        validation_loss=pulse.validation_loss,
        tokens_per_second=pulse.tokens_per_second,
        skipped_steps=pulse.skipped,
        last_step_age_seconds=None if since is None else now - since,
        heartbeat_age_seconds=None if heard is None or not current else now - heard,
        round=current.number if current else history.left,
        world_size=len(current.members) * processes if current else 0,
        restarts=dict(history.restarts),
    )
