"""The launcher's progress in Prometheus' text format. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pangu_core.messages import Progress

if TYPE_CHECKING:
    from prometheus_client.core import Metric

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
PHASES: Final = ("wait", "start", "compile", "step", "evaluate", "save", "done")
# Field of Progress -> name behind "pangu_train_", help. What is not known is left out.
_GAUGES: Final = {
    "step": ("step", "Optimizer steps done."),
    "steps": ("steps", "Optimizer steps that the job will make in all."),
    "loss": ("loss", "Loss of the last step, mean over its tokens."),
    "validation_loss": ("validation_loss", "Loss of the last evaluation."),
    "tokens_per_second": ("tokens_per_second", "Smoothed speed of the whole world."),
    "last_step_age_seconds": ("last_step_age_seconds", "Time since this node saw a step end."),
    "heartbeat_age_seconds": ("heartbeat_age_seconds", "Time since a rank gave a sign of life."),
    "skipped_steps": ("skipped_steps", "Steps without an update: a number was not finite."),
    "round": ("round", "Number of the gang that trains, or of the last one."),
    "world_size": ("world_size_ranks", "Ranks of the gang; 0 while this node waits."),
}


@dataclass(frozen=True, eq=False)  # the registry hashes it
class _Collector:
    progress: Progress

    def collect(self) -> Iterator["Metric"]:
        """All but the restarts are gauges: steps fall back when a checkpoint is resumed."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for field, (name, text) in _GAUGES.items():
            value = getattr(self.progress, field)
            if value is not None:
                yield GaugeMetricFamily(f"pangu_train_{name}", text, value=value)
        phases = GaugeMetricFamily("pangu_train_phase", "1: what the ranks do.", labels=["phase"])
        for phase in PHASES:
            phases.add_metric([phase], float(phase == self.progress.phase))
        yield phases
        restarts = CounterMetricFamily(
            "pangu_train_restarts", "Rounds that this node left before the end.", labels=["cause"]
        )
        for cause, count in sorted(self.progress.restarts.items()):
            restarts.add_metric([cause], count)
        yield restarts


def prometheus_text(progress: Progress) -> str:
    """What /metrics answers."""
    # Takes 60 ms to load, which no launcher should wait for before somebody asks.
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(progress))
    return generate_latest(registry).decode()
