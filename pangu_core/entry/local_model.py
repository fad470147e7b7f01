"""A model in this process, for ``pangu generate``; loads torch."""

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from rich.console import Console
from rich.progress import Progress

from pangu_core.api import load_tokenizer
from pangu_core.data.tokenizer import Tokenizer
from pangu_core.entry.generate import Said, Write
from pangu_core.generation import load, text
from pangu_core.generation.language_model import LanguageModel
from pangu_core.generation.load import Report
from pangu_core.generation.settings import GenerationSettings


def open_model(folder: str, *, device: str | None, dtype: str) -> Write:
    """Load a checkpoint; what comes back continues prompts with it.

    Raises:
        ConfigError: there is no such device or dtype.
        CheckpointError: no checkpoint there that can be trusted.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    with _loading_bar() as report:
        loaded = load.load(folder, device=device, dtype=dtype, report=report)
    return partial(write, loaded.model, load_tokenizer(loaded.vocabulary))


def write(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    settings: GenerationSettings,
) -> Iterator[Said]:
    """The pieces of ``text.stream``."""
    for piece in text.stream(model, tokenizer, prompts, settings):
        facts = None if piece.completion is None else vars(piece.completion)
        yield Said(piece.prompt, piece.text, facts)


@contextlib.contextmanager
def _loading_bar() -> Iterator[Report]:
    """A progress bar while weights are read, on a terminal only."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("loading", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
