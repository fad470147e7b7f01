"""Turns findings into one HTML page that needs nothing else: no network, no script, no fonts."""

import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pangu_core.checkpoint.manifest import Manifest
from pangu_core.reporting import plots
from pangu_core.reporting.findings import Findings
from pangu_core.reporting.history import History, smoothed
from pangu_core.reporting.ngrams import NgramLosses

TEMPLATES: Final = Path(__file__).parent / "templates"
UNKNOWN: Final = "not known"


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    label: str
    value: str
    note: str = ""


def render(findings: Findings, sample: str | None = None) -> str:
    """The page.

    Args:
        findings: what is known about the run.
        sample: text that the model wrote, shown as it is.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    history = findings.history
    return environment.get_template("report.html.j2").render(
        name=findings.name,
        verdict=verdict(findings),
        rows=[*loss_rows(findings), *run_rows(history), *model_rows(findings.manifest)],
        restarts=restart_rows(history),
        loss_plot=plots.loss_plot(history, findings.ngrams),
        speed_plot=plots.speed_plot(history),
        rate_plot=plots.rate_plot(history),
        sample=sample,
        training=training_in_words(history),
    )


def verdict(findings: Findings) -> str:
    """One sentence that says how good the model is."""
    loss, ngrams = findings.held_out_loss, findings.ngrams
    if loss is None:
        return "The model was not evaluated on held-out text."
    if ngrams is None:
        return f"Held-out loss {loss:.3f} nats a token."
    told = [
        f"{abs(level - loss):.2f} nats {'better' if loss < level else 'worse'} than {what}"
        for what, level in (
            ("counting single tokens", ngrams.unigram),
            ("counting pairs", ngrams.bigram),
        )
    ]
    return f"Held-out loss {loss:.3f} nats a token: {told[0]}, {told[1]}."


def loss_rows(findings: Findings) -> list[Row]:
    """How good the model is, beside what counting reaches."""
    rows = []
    ngrams, loss = findings.ngrams, findings.held_out_loss
    if loss is not None:
        note = f"perplexity {findings.perplexity:,.0f}"
        if ngrams:
            note += f"; over {ngrams.num_labels:,} of {ngrams.num_held_out:,} held-out tokens"
        rows.append(Row("Held-out loss", f"{loss:.3f} nats a token", note))
    rows += ngram_rows(ngrams)
    losses = [step.loss for step in findings.history.steps]
    if losses:
        note = f"smoothed; the last step alone {losses[-1]:.3f}"
        rows.append(Row("Training loss", f"{smoothed(losses)[-1]:.3f} nats a token", note))
    return rows


def ngram_rows(ngrams: NgramLosses | None) -> list[Row]:
    """What counting reaches on the same tokens."""
    if ngrams is None:
        return []
    counted = f"counts of {ngrams.num_counted:,} training tokens"
    return [
        Row("Bigram", f"{ngrams.bigram:.3f} nats a token", f"{counted}, absolute discounting"),
        Row("Unigram", f"{ngrams.unigram:.3f} nats a token", f"{counted}, one added to each"),
    ]


def run_rows(history: History) -> list[Row]:
    """What the run took."""
    steps = history.steps
    if not steps:
        return [Row("Steps", "none yet")]
    speeds = [s.tokens_per_second for s in steps if not math.isnan(s.tokens_per_second)]
    mfu = [step.mfu for step in steps if step.mfu is not None]
    note = f"; model FLOPs utilisation {statistics.median(mfu):.1%}" if mfu else ""
    sizes = ", ".join(map(str, history.world_sizes)) or UNKNOWN
    planned = f" of {history.planned_steps:,}" if history.planned_steps else ""
    return [
        Row("Steps", f"{steps[-1].step:,}{planned}"),
        Row("Tokens seen", f"{steps[-1].tokens:,}"),
        Row("Wall time", duration(history.seconds), "from the first start to the last event"),
        Row("Speed", f"{_median(speeds)} tokens a second", f"median{note}"),
        Row("Processes", sizes, "at each start"),
        Row("Interruptions", str(len(history.restarts))),
    ]


def model_rows(manifest: Manifest | None) -> list[Row]:
    """How large the model is."""
    if manifest is None:
        return []
    model = manifest.model
    sizes = (
        f"{model.num_layers} layers (query layer included), hidden {model.hidden_size}, "
        f"{model.num_heads} heads, vocabulary {model.vocab_size:,}, "
        f"up to {model.sequence_length:,} tokens"
    )
    return [Row("Model", f"{model.num_parameters:,} parameters", sizes)]


def restart_rows(history: History) -> list[tuple[str, ...]]:
    """A line for each interruption: when, resumed from, redone, seconds lost, processes after."""
    return [
        (
            duration(restart.silent_since - history.started_at),
            f"{restart.step:,}",
            f"{restart.steps_redone:,}",
            "never" if restart.silent_seconds is None else f"{restart.silent_seconds:.1f} s",
            str(restart.world_size),
        )
        for restart in history.restarts
    ]


def training_in_words(history: History) -> str:
    """How much the model has learned from, as a warning to readers of its text."""
    tokens = history.steps[-1].tokens if history.steps else 0
    return f"trained for {duration(history.seconds)} on {tokens:,} tokens"


def duration(seconds: float) -> str:
    """A span of time for people."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _median(speeds: list[float]) -> str:
    return f"{statistics.median(speeds):,.0f}" if speeds else UNKNOWN
