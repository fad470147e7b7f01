"""``pangu preprocess`` and the pod's preprocessing stage: text files to token files."""

import glob
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from pangu_core.config.stages import PreprocessConfig, RunIdentity
from pangu_core.data.preprocessing import Corpus, Encoding, Report, preprocess
from pangu_core.data.token_files import TokenFile
from pangu_core.data.vocabulary import find_vocabulary
from pangu_core.entry.marker import fingerprint, run_once
from pangu_core.entry.process import read_config, run
from pangu_core.entry.stopping import stopped_by_signals
from pangu_core.errors import ConfigError, DataError
from pangu_core.messages import Termination
from pangu_core.workspace import resolve

SECONDS_BETWEEN_LINES: Final = 10.0
logger = logging.getLogger(__name__)


@click.command()
@click.option("--config", help="Config file of the stage; default: the one PANGU_CONFIG names.")
@click.option("--input", "pattern", help="Glob of text files; quote it.")
@click.option("--output", help="Prefix of the token files: PREFIX.bin and PREFIX.idx.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "jsonl"]),
    default="text",
    help="text: blank lines separate documents. jsonl: one object a line.",
)
@click.option("--json-key", default="text", help="Key of a JSON line that holds the document.")
@click.option("--split-sentences", is_flag=True, help="One item per sentence.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes; default: one per CPU.")
@click.option("--tokenizer", help="Vocabulary file or folder; default: the published one.")
def main(
    config: str | None,
    pattern: str | None,
    output: str | None,
    form: str,
    json_key: str,
    split_sentences: bool,
    workers: int | None,
    tokenizer: str | None,
) -> None:
    """Turn text files into token files that training reads.

    Give --input and --output, or a config file. Interrupted, it goes on where it stopped.
    """
    if pattern is None and output is None:
        sys.exit(run("preprocess", partial(run_stage, config)))
    direct = {
        "run": RunIdentity(name="direct", uid="direct"),
        "input": pattern or "",
        "output": output or "",
        "format": form,
        "json_key": json_key,
        "split_sentences": split_sentences,
        "workers": workers,
        "tokenizer": tokenizer,
    }
    sys.exit(run("preprocess", partial(run_directly, PreprocessConfig.model_validate(direct))))


def run_stage(config_path: str | None) -> Termination:
    """The pod's way: everything in the config file, paths below the workspace, done once."""
    config = read_config(PreprocessConfig, config_path)
    corpus = describe(config, locate=resolve)
    return run_once(
        "preprocess",
        config.run,
        corpus.fingerprint,
        partial(write_tokens, corpus, config.output),
        still_there=partial(is_token_file, corpus.output),
    )


def run_directly(config: PreprocessConfig) -> Termination:
    """The command line's way: ordinary paths."""
    for flag, value in (("--input", config.input), ("--output", config.output)):
        if not value:
            raise ConfigError(flag, seen="nothing", rule="is required", fix=f"add {flag}")
    return write_tokens(describe(config, locate=Path), config.output)


def describe(config: PreprocessConfig, *, locate: Callable[[str], Path]) -> Corpus:
    """What the settings mean on this machine; ``locate`` turns a path of theirs into one of ours.

    Raises:
        ConfigError: no file matches, or there is no vocabulary.
    """
    pattern = str(locate(config.input))
    files = sorted(Path(name) for name in glob.glob(pattern, recursive=True))  # noqa: PTH207
    files = [path for path in files if path.is_file()]
    if Path(pattern).is_dir():
        fix = f"write {config.input.rstrip('/')}/*.txt"
        raise ConfigError("data.input", seen=pattern, rule="is a folder", fix=fix)
    if not files:
        raise ConfigError(
            "data.input",
            seen=str(Path(pattern).absolute()),
            rule="must match at least one file",
            fix="check the pattern, and copy the corpus into the workspace",
        )
    tokenizer = find_vocabulary(locate(config.tokenizer) if config.tokenizer else None)
    return Corpus(
        files=tuple(files),
        output=locate(config.output),
        encoding=Encoding(
            form=config.format,
            json_key=config.json_key,
            split_sentences=config.split_sentences,
            append_eod=config.append_eod,
            tokenizer=tokenizer,
        ),
        # The number of workers does not change the result.
        fingerprint=fingerprint(config.model_copy(update={"workers": None}), [*files, tokenizer]),
        num_workers=config.workers or len(os.sched_getaffinity(0)),
    )


def is_token_file(prefix: Path) -> bool:
    """Whether a whole token file is there."""
    try:
        TokenFile.open(prefix)
    except DataError:
        return False
    return True


def write_tokens(corpus: Corpus, output: str) -> Termination:
    """Preprocess with a progress bar; a signal stops it, and the next call goes on."""
    with stopped_by_signals("preprocess", "finished chunks are kept"), _shown_progress() as show:
        report = preprocess(corpus, on_progress=show)
    logger.info(
        "%d documents, %d tokens in %s.bin; %.1f s, %.2f MB/s",
        report.num_documents,
        report.num_tokens,
        output,
        report.seconds,
        report.megabytes_per_second,
    )
    return Termination(code=0, output=output)


@contextmanager
def _shown_progress() -> Iterator[Callable[[Report], None]]:
    """A progress bar on a terminal, a line every few seconds elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    columns = (
        TextColumn("preprocess"),
        BarColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("preprocess", total=None, rate="")

        def show(report: Report) -> None:
            rate = f"{report.megabytes_per_second:.2f} MB/s, {report.num_tokens:,} tokens"
            bar.update(task, completed=report.num_bytes, total=report.total_bytes, rate=rate)

        yield show


class _Lines:
    """Progress as log lines, not too many."""

    def __init__(self) -> None:
        self._next = time.monotonic() + SECONDS_BETWEEN_LINES

    def __call__(self, report: Report) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + SECONDS_BETWEEN_LINES
        logger.info(
            "%d of %d bytes, %d documents, %.2f MB/s",
            report.num_bytes,
            report.total_bytes,
            report.num_documents,
            report.megabytes_per_second,
        )


if __name__ == "__main__":
    main()
