"""``pangu generate``: continue prompts, streaming to the terminal.

A model in this process writes, or a service: then torch is never loaded.
"""

import itertools
import json
import os
import readline  # noqa: F401 - input() then edits whole characters, not bytes
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from pangu_core.entry import process
from pangu_core.errors import ConfigError
from pangu_core.generation.settings import GenerationSettings, read_settings
from pangu_core.service.client import Client

EXIT_INTERRUPTED: Final = 130  # 128 + SIGINT, as shells report it
KEY_VARIABLE: Final = "PANGU_API_KEY"
DEFAULT_DTYPE: Final = "float32"


@dataclass(frozen=True)
class Said:
    """New text of one prompt.

    Attributes:
        prompt: its number.
        text: what is new.
        facts: with the last piece, what --json shows; the whole ``text`` is among it.
    """

    prompt: int
    text: str
    facts: Mapping[str, Any] | None = None


# Who continues prompts: pieces of those that run together are interleaved.
Write = Callable[[Sequence[str], GenerationSettings], Iterator[Said]]


@dataclass(frozen=True)
class Session:
    """Who writes, and the rules to do it by."""

    write: Write
    settings: GenerationSettings


@click.command(context_settings={"max_content_width": 100})
@click.option("--model", "folder", help="Checkpoint folder, or a run's checkpoints.")
@click.option("--service", "url", help="Address of a service that writes, instead of --model.")
@click.option("--api-key-file", help=f"File with the service's API key; default: {KEY_VARIABLE}.")
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
@click.option("--dtype", help="float32 (default), bfloat16 or float16.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line for each prompt.")
def command(
    prompts: tuple[str, ...],
    prompts_file: str | None,
    as_json: bool,
    **values: Any,
) -> None:
    """Continue prompts with a model, here or behind a service.

    Without a prompt it asks for one on a terminal, and reads a prompt from each line elsewhere.
    """
    where = {
        name: values.pop(name) for name in ("folder", "url", "api_key_file", "device", "dtype")
    }
    given = {name: value for name, value in values.items() if value not in (None, ())}
    settings = read_settings(given)
    wanted = [*prompts, *(read_prompts(Path(prompts_file)) if prompts_file else ())]
    session = Session(find_writer(**where), settings)
    if wanted:
        answer_all(session, wanted, as_json)
    elif sys.stdin.isatty():
        converse(session, lambda: input("> "))
    else:
        for prompt in piped_prompts(sys.stdin):
            answer_all(session, [prompt], as_json)


def find_writer(
    folder: str | None,
    url: str | None,
    api_key_file: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
) -> Write:
    """Who writes: the model of a folder, or a service.

    Raises:
        ConfigError: not exactly one of them is named, or a flag is the other's.
        CheckpointError: the folder holds no model that can be trusted.
    """
    if (folder is None) == (url is None):
        raise ConfigError(
            "pangu generate",
            seen="neither --model nor --service" if folder is None else "--model and --service",
            rule="needs the one or the other",
            fix="name a checkpoint folder with --model, or the address of a service with --service",
        )
    here, there = (device, dtype), (api_key_file,)
    if any(there if url is None else here):
        flags = "--api-key-file" if url is None else "--device and --dtype"
        fix = "leave it out"
        raise ConfigError(flags, seen="given", rule="has no effect here", fix=fix)
    if url is not None:
        return service_writer(Client(url, read_key(api_key_file)))
    assert folder is not None
    # Loads torch, which takes seconds and which asking a service does without.
    from pangu_core.entry import local_model

    return local_model.open_model(folder, device=device, dtype=dtype or DEFAULT_DTYPE)


def service_writer(client: Client) -> Write:
    """A service, asked for some prompts at a time."""

    def write(prompts: Sequence[str], settings: GenerationSettings) -> Iterator[Said]:
        for part in parts(prompts, settings.batch_size):
            texts = [""] * len(part)
            for index, text, reason in client.stream([prompts[n] for n in part], settings):
                texts[index] += text
                facts = {"text": texts[index], "finish_reason": reason} if reason else None
                yield Said(part[index], text, facts)

    return write


def parts(prompts: Sequence[str], size: int) -> Iterator[list[int]]:
    """Numbers of the prompts to ask for together, at most so many unless they are equal.

    Equal prompts go together, as a service tells their draws apart within one request only.
    """
    equal: dict[str, list[int]] = {}
    for number, prompt in enumerate(prompts):
        equal.setdefault(prompt, []).append(number)
    part: list[int] = []
    for numbers in equal.values():
        if part and len(part) + len(numbers) > size:
            yield part
            part = []
        part = part + numbers
    if part:
        yield part


def read_key(path: str | None) -> str | None:
    """The key in a file, else in the environment; None: there is none.

    Raises:
        ConfigError: the file cannot be read, or holds no single key.
    """
    if path is None:
        return os.environ.get(KEY_VARIABLE)
    try:
        words = Path(path).read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        rule = f"must be a readable file ({error})"
        raise ConfigError("--api-key-file", seen=path, rule=rule, fix="check the path") from error
    if len(words) != 1:
        rule = "must hold one key"
        raise ConfigError(
            "--api-key-file", seen=f"{len(words)} in {path}", rule=rule, fix="write one key"
        )
    return words[0]


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
    for number, facts in in_order(session, prompts):
        prompt = prompts[number]
        if as_json:
            click.echo(json.dumps({"prompt": prompt, **facts}, ensure_ascii=False))
        else:
            click.echo(f"> {prompt}\n{facts['text']}\n")


def in_order(session: Session, prompts: Sequence[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Facts in the order of the prompts, each as soon as those before it are there."""
    done: dict[int, Mapping[str, Any]] = {}
    following = 0
    for said in session.write(prompts, session.settings):
        if said.facts is not None:
            done[said.prompt] = said.facts
        while following in done:
            yield following, done.pop(following)
            following += 1


def show_stream(session: Session, prompt: str, settings: GenerationSettings) -> None:
    """Write one completion as it grows, always whole characters, and end the line."""
    for said in session.write([prompt], settings):
        click.echo(said.text, nl=False)
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
