"""The launcher's progress in Prometheus' text format. Pure."""

from typing import Final

from pangu_core.messages import Progress

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
    "heartbeat_age_seconds": ("heartbeat_age_seconds", "Time since the ranks gave a sign of life."),
    "skipped_steps": ("skipped_steps", "Steps without an update: a number was not finite."),
    "round": ("round", "Number of the gang that trains, or of the last one."),
    "world_size": ("world_size_ranks", "Ranks of the gang; 0 while this node waits."),
}


def prometheus_text(progress: Progress) -> str:
    """What /metrics answers.

    Everything but the restarts is a gauge: steps and skipped steps fall back when training goes on
    from a checkpoint.
    """
    # 60 ms that no launcher should wait for before somebody asks.
    from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, generate_latest

    registry = CollectorRegistry()
    for field, (name, text) in _GAUGES.items():
        value = getattr(progress, field)
        if value is not None:
            Gauge(f"pangu_train_{name}", text, registry=registry).set(value)
    phase = Enum("pangu_train_phase", "What the ranks do.", states=list(PHASES), registry=registry)
    if progress.phase in PHASES:
        phase.state(progress.phase)
    restarts = Counter(
        "pangu_train_restarts_total",
        "Rounds that this node left before the end.",
        labelnames=["cause"],
        registry=registry,
    )
    for cause, count in progress.restarts.items():
        restarts.labels(cause).inc(count)
    return generate_latest(registry).decode()
