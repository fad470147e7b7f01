"""Draws a run's curves as SVG that takes its ink from the page, so that it is legible on any.

Text in plots is ASCII: it is set in the page's font, and no font has to be shipped.
"""

import io
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pangu_core.reporting.history import History, Step, smoothed
from pangu_core.reporting.ngrams import NgramLosses

# Drawn in this colour, then replaced by the page's own text colour.
INK: Final = "#010203"
# Each has a contrast of 3 or more on white and on the dark page.
BLUE, ORANGE, GREEN, RED, GREY = "#3b82f6", "#d97706", "#16a34a", "#dc2626", "#868c96"
SETTINGS: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "pangu",  # the same run gives the same page
    "font.size": 10,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), INK),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}


def loss_plot(history: History, ngrams: NgramLosses | None) -> str:
    """Training and held-out loss against steps, with the levels that counting reaches."""

    def draw(axes: Axes) -> None:
        steps = history.steps
        numbers, losses = [s.step for s in steps], [s.loss for s in steps]
        axes.plot(numbers, losses, color=BLUE, alpha=0.6, linewidth=0.7, label="training, raw")
        axes.plot(numbers, smoothed(losses), color=BLUE, linewidth=1.6, label="training, smoothed")
        evaluations = history.evaluations
        axes.plot(
            [e.step for e in evaluations],
            [e.loss for e in evaluations],
            color=ORANGE,
            marker="o",
            linewidth=1.2,
            label="held-out",
        )
        for label, level, style in _levels(ngrams):
            axes.axhline(level, color=GREEN, linestyle=style, linewidth=1.2, label=label)
        for restart in history.restarts:
            axes.axvline(restart.step, color=RED, linestyle=":", linewidth=1.2)
        if history.restarts:
            axes.plot([], [], color=RED, linestyle=":", label="resumed here")
        axes.set(xlabel="step", ylabel="loss (nats a token)")

    return _svg("loss", draw, height=3.8)


def speed_plot(history: History) -> str:
    """Tokens a second against wall time, with interruptions and checkpoints."""

    def minutes(time: float) -> float:
        return (time - history.started_at) / 60

    def draw(axes: Axes) -> None:
        for _, group in itertools.groupby(history.all_steps, lambda step: step.round):
            part = list(group)
            kept = [step for step in part if step.survives]
            for color, shown in ((GREY, part), (BLUE, kept)):
                axes.plot(
                    [minutes(s.time) for s in shown],
                    [s.tokens_per_second for s in shown],
                    color=color,
                    marker="." if len(shown) == 1 else None,
                    linewidth=1.4,
                )
        axes.plot([], [], color=BLUE, label="training")
        if any(not step.survives for step in history.all_steps):
            axes.plot([], [], color=GREY, label="work that was done again")
        for restart in history.restarts:
            end = restart.resumed_at or history.ended_at
            axes.axvspan(minutes(restart.silent_since), minutes(end), color=RED, alpha=0.18, lw=0)
            axes.axvline(minutes(restart.silent_since), color=RED, linewidth=1.4)
        if history.restarts:
            axes.plot([], [], color=RED, label="interrupted, until the next step")
        saves = [minutes(save.time) for save in history.saves]
        axes.plot(
            saves,
            [0.0] * len(saves),
            color=GREEN,
            marker="^",
            linestyle="none",
            clip_on=False,
            label="checkpoint",
        )
        axes.set_ylim(bottom=0, top=_top(history.all_steps))
        axes.set(xlabel="minutes since the first start", ylabel="tokens a second")

    return _svg("speed", draw)


def rate_plot(history: History) -> str:
    """Learning rate against steps."""

    def draw(axes: Axes) -> None:
        steps = history.steps
        axes.plot([s.step for s in steps], [s.learning_rate for s in steps], color=BLUE)
        axes.set_ylim(bottom=0)
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
        axes.set(xlabel="step", ylabel="learning rate")

    return _svg("rate", draw, height=2.2)


def _levels(ngrams: NgramLosses | None) -> list[tuple[str, float, str]]:
    if ngrams is None:
        return []
    return [
        (f"unigram {ngrams.unigram:.2f}", ngrams.unigram, ":"),
        (f"bigram {ngrams.bigram:.2f}", ngrams.bigram, "--"),
    ]


def _top(steps: Sequence[Step]) -> float | None:
    """Room above the curve; one step timed too short does not squeeze all the others."""
    speeds = sorted(step.tokens_per_second for step in steps if step.tokens_per_second > 0)
    return 1.25 * speeds[int(0.98 * (len(speeds) - 1))] if speeds else None


def _svg(name: str, draw: Callable[[Axes], None], *, height: float = 3.2) -> str:
    """One plot as an ``svg`` element; ``name`` keeps its ids apart from other plots'."""
    buffer = io.StringIO()
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(8.0, height), layout="constrained")
        axes = figure.subplots()
        draw(axes)
        if axes.get_legend_handles_labels()[1]:
            figure.legend(loc="outside upper left", ncols=3, fontsize=9)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = text.replace("<svg ", '<svg aria-hidden="true" ', 1)
    return text.replace(INK, "currentColor")
