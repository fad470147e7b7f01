"""generate_samples_Pangu: prompts of its own, then yours; a file of prompts; or none at all.

What its flags say is done, which the original did for --top_k alone.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
import numpy as np
import torch

from pangu_core.api import load_tokenizer
from pangu_core.data.tokenizer import Tokenizer
from pangu_core.entry import process
from pangu_core.entry.generate import read_prompts
from pangu_core.errors import ConfigError
from pangu_core.generation import text
from pangu_core.generation.language_model import LanguageModel
from pangu_core.generation.settings import GenerationSettings, read_settings
from pangu_core.legacy import compat, vocabulary
from pangu_core.legacy.parsing import Options, parse
from pangu_core.legacy.weights import language_model, open_weights, with_activation

SCRIPT: Final = "generate_samples_Pangu"
QUESTION: Final = "Tell Pangu-alpha what you want to generate:"
END_WORD: Final = "stop"  # Megatron's
PROMPTS: Final = Path(__file__).with_name("prompts.txt")


@dataclass(frozen=True)
class Session:
    """A loaded model and the rules of the command line."""

    model: LanguageModel
    tokenizer: Tokenizer
    settings: GenerationSettings
    sequence_length: int
    random: np.random.RandomState | None  # of the original's draw, where it is asked for

    def pieces(self, prompt: str) -> Iterator[str]:
        """The text that follows a prompt, as it grows.

        Raises:
            ConfigError: the prompt leaves no room.
        """
        ids = self.tokenizer.encode(prompt) or [self.tokenizer.eod_id]
        room = self.sequence_length - len(ids)
        if room <= 0:
            raise ConfigError(
                "prompt",
                seen=f"{len(ids)} tokens",
                rule=f"must be shorter than --seq-length ({self.sequence_length})",
                fix="shorten it",
            )
        if self.random is not None:
            yield self.tokenizer.decode(self._compat_tokens(ids, self.random))
            return
        limit = min(self.settings.max_new_tokens, room)
        settings = self.settings.model_copy(update={"max_new_tokens": limit})
        for piece in text.stream(self.model, self.tokenizer, [prompt], settings):
            yield piece.text

    def _compat_tokens(self, ids: list[int], random: np.random.RandomState) -> list[int]:
        return compat.continue_tokens(
            self.model,
            ids,
            eod_id=self.tokenizer.eod_id,
            top_k=self.settings.top_k,
            sequence_length=self.sequence_length,
            random=random,
        )


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    return process.run(SCRIPT, lambda: run(parse("generate", SCRIPT, arguments)))


def run(options: Options) -> None:
    """Load the model and write texts, in the way that the flags choose.

    Raises:
        PanguError: what the user asked for cannot be done.
    """
    if int(os.environ.get("RANK", "0")):
        return  # one process reads weights of any number of parts; the others are not needed
    session = _open(options)
    if options["num_samples"] > 0:
        write_unconditional(session, options["num_samples"], options["genfile"])
    elif options["sample_input_file"]:
        source = Path(options["sample_input_file"])
        write_file(session, source, options["sample_output_file"])
    elif options["sample_input"]:
        show(session, _from_hex(options["sample_input"]))
    else:
        for prompt in PROMPTS.read_text(encoding="utf-8").strip().split("\n\n"):
            show(session, prompt)
        converse(session, lambda: input(QUESTION))


def write_unconditional(session: Session, count: int, path: str | None) -> None:
    """Texts that begin a document, one JSON object a line."""
    completions = text.generate(session.model, session.tokenizer, [""] * count, session.settings)
    rows = [
        {
            "text": each.text,
            "length": len(each.ids),
            "finished": each.finish_reason == "eod",
        }
        for each in completions
    ]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if path:
        Path(path).write_text(lines, encoding="utf-8")
    else:
        click.echo(lines, nl=False)


def write_file(session: Session, source: Path, target: str | None) -> None:
    """Continue each line of a file; by default into a file of its name and ``.out``."""
    with Path(target or f"{source}.out").open("w", encoding="utf-8") as file:
        for prompt in read_prompts(source):
            file.write(f"Input is: {prompt}\nOutput is: {''.join(session.pieces(prompt))}\n\n")


def show(session: Session, prompt: str) -> None:
    """Write a prompt and the text that follows it, as it grows."""
    click.echo(f"Input is: {prompt}\nOutput is: ", nl=False)
    for piece in session.pieces(prompt):
        click.echo(piece, nl=False)
    click.echo("\n")


def converse(session: Session, ask: Callable[[], str]) -> None:
    """Ask for prompts until the end of input, or the word "stop"."""
    while True:
        try:
            prompt = ask()
        except (EOFError, KeyboardInterrupt):
            click.echo()
            return
        if prompt.strip() == END_WORD:
            return
        try:
            show(session, prompt)
        except ConfigError as error:  # a prompt that does not fit; the next one may
            click.echo(f"error: {error}", err=True)


def _open(options: Options) -> Session:
    source = Path(options.require("load", "names the model"))
    weights = with_activation(open_weights(source, options), options)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    is_half = options["fp16"] and device.type == "cuda"
    model = language_model(
        weights, device=device, dtype=torch.float16 if is_half else torch.float32
    )
    length = model.config.sequence_length
    return Session(
        model=model,
        tokenizer=load_tokenizer(weights.vocabulary or vocabulary.locate(options["vocab_file"])),
        settings=_settings(options),
        sequence_length=min(options["seq_length"] or length, length),
        random=np.random.RandomState(options["seed"]) if options["compat_sampling"] else None,
    )


def _settings(options: Options) -> GenerationSettings:
    values = {
        "max_new_tokens": options["generate_max_tokens"] or options["out_seq_length"],
        "greedy": options["greedy"],
        "temperature": options["temperature"],
        "top_k": options["top_k"],
        "top_p": options["top_p"] or 1.0,  # Megatron's 0 is off
        "seed": options["seed"],
        "batch_size": options["batch_size"] or 1,
    }
    return read_settings(values)


def _from_hex(value: str) -> str:
    try:
        return bytes.fromhex(value).decode("utf-8")
    except ValueError as error:
        raise ConfigError(
            "--sample-input", seen=value, rule="must be UTF-8 in hexadecimal", fix="see xxd -p"
        ) from error
