"""The report page: what it says, and that it needs nothing but itself."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pangu_core.checkpoint.manifest import Header
from pangu_core.checkpoint.store import Store
from pangu_core.data.token_files import TokenFileWriter
from pangu_core.entry.report import main
from pangu_core.reporting import plots
from pangu_core.reporting.history import History, read_history
from pangu_core.reporting.page import duration

START = {"event": "start", "step": 0, "steps": 4, "round": 1, "world_size": 2}
SAMPLE = "我国经济 | <b>发展</b> & 改革"
TRAINING = {
    "sequence_length": 4,
    "data": {"split": "50,50,0"},
    "train": {"steps": 4, "globalBatchSize": 2, "evaluate": {"batches": 3}},
}


def events() -> list[dict[str, Any]]:
    def step(number: int, time: float) -> dict[str, Any]:
        rest = {"learning_rate": 0.001, "tokens_per_second": 120.0 * time, "mfu": 0.25}
        return {
            **{"time": time, "event": "step", "step": number, "loss": 9.0 - number},
            **{"tokens": 1000 * number, **rest},
        }

    return [
        {"time": 0.0, **START},
        *(step(n, float(n)) for n in (1, 2)),
        {"time": 2.5, "event": "save", "step": 2, "seconds": 0.5},
        step(3, 3.0),
        {"time": 20.0, **START, "step": 2},
        *(step(n, 18.5 + n) for n in (3, 4)),
        {"time": 73.0, "event": "evaluate", "step": 4, "validation_loss": 2.0},
    ]


@pytest.fixture
def run_folder(tmp_path: Path, small: Any) -> Path:
    """A run's folder as training leaves it, with a tiny model."""
    folder = tmp_path / "runs" / "r1"
    folder.mkdir(parents=True)
    lines = "".join(json.dumps(event) + "\n" for event in events())
    (folder / "metrics.jsonl").write_text(lines, encoding="utf-8")
    run = small.header().run
    header = Header(model=small.model, run=run, training=TRAINING)
    Store(folder / "checkpoints").save(4, small.pieces(small.tensors(), header.layout), header)
    (folder / "data").mkdir()
    with TokenFileWriter(folder / "data" / "tokens", vocab_size=13) as writer:
        for _ in range(2):
            writer.add([1, 2, 3, 1, 2, 3, 1, 2, 9])
            writer.end_document()
    return folder


def page_of(folder: Path, *arguments: str) -> str:
    result = CliRunner().invoke(main, [str(folder), *arguments])
    assert result.exit_code == 0, result.output
    assert result.output.strip() == str(folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<svg.*?</svg>|<[^>]*>", " ", page, flags=re.DOTALL))


def test_the_page_says_how_good_the_model_is_and_what_it_took(run_folder: Path, small: Any) -> None:
    text = text_of(page_of(run_folder))
    assert "Held-out loss 2.000 nats a token perplexity 7; over 8 of 9 held-out tokens" in text
    assert "Bigram" in text
    assert "counts of 9 training tokens" in text
    assert "Steps 4 of 4 Tokens seen 4,000 Wall time 1 min 13 s" in text
    assert "model FLOPs utilisation 25.0%" in text
    assert f"{small.model.num_parameters:,} parameters 2 layers" in text


def test_the_page_says_what_an_interruption_cost(run_folder: Path) -> None:
    text = text_of(page_of(run_folder))
    assert "Processes 2, 2 at each start Interruptions 1" in text
    assert "processes after 3 s 2 1 18.5 s 2 " in text


def test_text_of_the_model_is_shown_as_it_is_and_called_what_it_is(run_folder: Path) -> None:
    sample = run_folder / "sample.txt"
    sample.write_text(SAMPLE, encoding="utf-8")
    page = page_of(run_folder, "--sample-file", str(sample))
    assert "我国经济 | &lt;b&gt;发展&lt;/b&gt; &amp; 改革" in page
    assert "From a model trained for 1 min 13 s on 4,000 tokens" in page


def test_the_page_needs_nothing_but_itself_and_repeats_no_id(run_folder: Path) -> None:
    seen: list[tuple[str, str | None]] = []

    class Attributes(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag not in ("script", "link", "img", "iframe", "metadata")
            seen.extend(attrs)

    page = page_of(run_folder)
    Attributes().feed(page)
    links = [value for name, value in seen if name in ("href", "xlink:href", "src") and value]
    assert links
    assert all(link.startswith("#") for link in links)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))
    assert "@import" not in page
    ids = [value for name, value in seen if name == "id"]
    assert len(ids) == len(set(ids))


def test_a_run_that_has_just_begun_has_a_page_too(run_folder: Path) -> None:
    (run_folder / "metrics.jsonl").write_text(json.dumps({"time": 1.0, **START}) + "\n")
    text = text_of(page_of(run_folder))
    assert "The model was not evaluated on held-out text." in text
    assert "Steps none yet" in text


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, [str(tmp_path)])
    assert result.exit_code == 3
    assert "metrics.jsonl: No such file or directory" in result.output
    assert "name a run's folder" in result.output


def test_a_sample_that_is_not_there_is_refused(run_folder: Path) -> None:
    result = CliRunner().invoke(main, [str(run_folder), "--sample-file", "nowhere"])
    assert result.exit_code == 2


def test_plots_take_their_ink_from_the_page_and_mark_what_was_done_again() -> None:
    history = read_history(events())
    loss, speed = plots.loss_plot(history, None), plots.speed_plot(history)
    assert plots.INK not in loss + speed
    assert "currentColor" in loss
    assert "resumed here" in loss
    assert "work that was done again" in speed
    assert "interrupted" not in plots.speed_plot(History())


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.7, "1 min 0 s"), (161, "2 min 41 s"), (7260, "2 h 1 min")],
)
def test_durations_are_for_people(seconds: float, words: str) -> None:
    assert duration(seconds) == words
