"""``pangu generate``: continue prompts with a model, streaming to the terminal."""

import contextlib
import itertools
import json
import readline  # noqa: F401 - input() then edits whole characters, not bytes
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import torch
from rich.console import Console
from rich.progress import Progress

from pangu_core.api import load_tokenizer
from pangu_core.data.tokenizer import Tokenizer
from pangu_core.entry import process
from pangu_core.errors import ConfigError
from pangu_core.generation import load, text
from pangu_core.generation.language_model import LanguageModel
from pangu_core.generation.load import Report
from pangu_core.generation.settings import GenerationSettings, read_settings
from pangu_core.generation.text import Completion

EXIT_INTERRUPTED: Final = 130  # 128 + SIGINT, as shells report it


@dataclass(frozen=True)
class Session:
    """A loaded model with the rules to use it by."""

    model: LanguageModel
    tokenizer: Tokenizer
    settings: GenerationSettings


@click.command(context_settings={"max_content_width": 100})
@click.option("--model", "folder", required=True, help="Checkpoint folder, or a run's checkpoints.")
@click.option("--prompt", "prompts", multiple=True, help="Text to continue; may be repeated.")
@click.option("--prompts-file", help="UTF-8 file with a prompt on each line.")
@click.option("--max-new-tokens", type=int, help="Most tokens to add; default 100.")
@click.option("--greedy", is_flag=True, default=None, help="Always take the likeliest token.")
@click.option("--temperature", type=float, help="Below 1 bolder, above 1 more varied; default 1.")
@click.option("--top-k", type=int, help="Draw among the K best tokens; default 0: all.")
@click.option("--top-p", type=float, help="Draw among the fewest that reach P; default 0.9.")
@click.option("--repetition-penalty", type=float, help="Above 1 repeats less; default 1: off.")
@click.option("--seed", type=int, help="The same seed gives the same text; default 1234.")
@click.option("--stop", multiple=True, help="End the text before this string; may be repeated.")
@click.option("--device", help="A torch device; default: the GPU if there is one.")
@click.option("--dtype", default="float32", help="float32 (default), bfloat16 or float16.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line for each prompt.")
def command(
    folder: str,
    prompts: tuple[str, ...],
    prompts_file: str | None,
    device: str | None,
    dtype: str,
    as_json: bool,
    **values: Any,
) -> None:
    """Continue prompts with a model.

    Without a prompt it asks for one on a terminal, and reads a prompt from each line elsewhere.
    """
    given = {name: value for name, value in values.items() if value not in (None, ())}
    settings = read_settings(given)
    wanted = [*prompts, *(read_prompts(Path(prompts_file)) if prompts_file else ())]
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    with _loading_bar() as report:
        loaded = load.load(folder, device=device, dtype=dtype, report=report)
    session = Session(loaded.model, load_tokenizer(loaded.vocabulary), settings)
    if wanted:
        answer_all(session, wanted, as_json)
    elif sys.stdin.isatty():
        converse(session, lambda: input("> "))
    else:
        for prompt in piped_prompts(sys.stdin):
            answer_all(session, [prompt], as_json)


def read_prompts(path: Path) -> list[str]:
    """The lines of a file that are not blank.

    Raises:
        ConfigError: the file cannot be read, is not UTF-8, or holds nothing.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "--prompts-file",
            seen=str(path),
            rule=f"must be a readable UTF-8 file ({error})",
            fix="check the path and save the file as UTF-8",
        ) from error
    prompts = [line for line in lines if line.strip()]
    if not prompts:
        raise ConfigError(
            "--prompts-file",
            seen=str(path),
            rule="must hold a prompt",
            fix="write one prompt a line",
        )
    return prompts


def piped_prompts(lines: Iterable[str]) -> Iterator[str]:
    """The lines of standard input that are not blank, as they come.

    Raises:
        ConfigError: it is not UTF-8.
    """
    try:
        for line in filter(str.strip, lines):
            yield line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ConfigError(
            "standard input", seen=str(error), rule="must be UTF-8", fix="convert it with iconv"
        ) from error


def answer_all(session: Session, prompts: Sequence[str], as_json: bool) -> None:
    """Write the completions of some prompts; a single one streams."""
    if len(prompts) == 1 and not as_json:
        show_stream(session, prompts[0], session.settings)
        return
    for number, completion in in_order(session, prompts):
        prompt = prompts[number]
        if as_json:
            row = {"prompt": prompt, **vars(completion)}
            click.echo(json.dumps(row, ensure_ascii=False))
        else:
            click.echo(f"> {prompt}\n{completion.text}\n")


def in_order(session: Session, prompts: Sequence[str]) -> Iterator[tuple[int, Completion]]:
    """Completions in the order of the prompts, each as soon as those before it are there."""
    done: dict[int, Completion] = {}
    following = 0
    for piece in text.stream(session.model, session.tokenizer, prompts, session.settings):
        if piece.completion is not None:
            done[piece.prompt] = piece.completion
        while following in done:
            yield following, done.pop(following)
            following += 1


def show_stream(session: Session, prompt: str, settings: GenerationSettings) -> None:
    """Write one completion as it grows, always whole characters, and end the line."""
    for piece in text.stream(session.model, session.tokenizer, [prompt], settings):
        click.echo(piece.text, nl=False)
    click.echo()


def converse(session: Session, ask: Callable[[], str]) -> None:
    """Ask for prompts until the end of input; each turn draws with a seed of its own.

    Ctrl-C ends the text that is being written, Ctrl-D the conversation.
    """
    for turn in itertools.count():
        try:
            prompt = ask()
        except (EOFError, KeyboardInterrupt):
            click.echo()
            return
        seed = session.settings.seed + turn
        try:
            show_stream(session, prompt, session.settings.model_copy(update={"seed": seed}))
        except KeyboardInterrupt:
            click.echo()
        except ConfigError as error:  # a prompt that does not fit; the next one may
            click.echo(f"error: {error}", err=True)


@contextlib.contextmanager
def _loading_bar() -> Iterator[Report]:
    """A progress bar while weights are read, on a terminal only."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("loading", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def run(arguments: Sequence[str]) -> None:
    """Parse and carry out; wrong flags become an error like any other.

    Raises:
        PanguError: what the user asked for cannot be done.
    """
    try:
        command.main(list(arguments), prog_name="pangu generate", standalone_mode=False)
    except click.UsageError as error:
        raise process.as_config_error(error) from error
    except click.Abort:
        sys.exit(EXIT_INTERRUPTED)


def main() -> None:
    """Run the command."""
    sys.exit(process.run("generate", lambda: run(sys.argv[1:])))


if __name__ == "__main__":
    main()
