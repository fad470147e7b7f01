"""The stable Python interface, re-exported by the package: load a model, a tokenizer, generate.

model = pangu_core.load_model("runs/novel/model")
tokenizer = pangu_core.load_tokenizer("runs/novel/model")
[result] = pangu_core.generate(model, tokenizer, "...", max_new_tokens=50, greedy=True)
print(result.text)
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pangu_core.checkpoint.store import find_checkpoint
from pangu_core.data import tokenizer as tokenizing
from pangu_core.data.tokenizer import Tokenizer
from pangu_core.data.vocabulary import VOCABULARY_NAME
from pangu_core.generation import load, text
from pangu_core.generation.language_model import LanguageModel
from pangu_core.generation.settings import read_settings
from pangu_core.generation.text import Completion, Piece


def load_model(path: str | Path, device: str = "cpu", dtype: str = "float32") -> LanguageModel:
    """Load the model of a checkpoint folder, or the newest in a folder of checkpoints.

    Args:
        path: the folder.
        device: a torch device, for example "cuda:0".
        dtype: float32, bfloat16, float16 or float64, for weights and arithmetic.

    Returns:
        A callable: int64 ids [B, T] to float32 logits [B, T, vocab_size].

    Raises:
        ConfigError: there is no such device or dtype.
        CheckpointError: there is no checkpoint that can be trusted.
    """
    return load.load(path, device=device, dtype=dtype).model


def load_tokenizer(path: str | Path | None = None) -> Tokenizer:
    """The tokenizer of a vocabulary file or a checkpoint; by default the published one.

    Args:
        path: a SentencePiece model, a folder with ``vocab.model`` (a checkpoint), or a folder of
            checkpoints, whose newest one counts.

    Raises:
        ConfigError: there is no vocabulary, or it is not one of PanGu-alpha.
        CheckpointError: a folder holds neither a vocabulary nor a checkpoint.
    """
    if path is not None and Path(path).is_dir() and not (Path(path) / VOCABULARY_NAME).is_file():
        path = find_checkpoint(Path(path))
    return tokenizing.load_tokenizer(path)


def generate(
    model: LanguageModel, tokenizer: Tokenizer, prompts: str | Sequence[str], **settings: Any
) -> list[Completion]:
    """Continue one prompt or several; returns one completion for each, in order.

    ``settings`` are the fields of ``generation.settings.GenerationSettings``: max_new_tokens,
    greedy, repetition_penalty, temperature, top_k, top_p, seed, stop, batch_size.

    Raises:
        ConfigError: a wrong or unknown setting, or a prompt that does not fit the model.
        CheckpointError: the model's scores are not finite.
    """
    return text.generate(model, tokenizer, _as_list(prompts), read_settings(settings))


def stream(
    model: LanguageModel, tokenizer: Tokenizer, prompts: str | Sequence[str], **settings: Any
) -> Iterator[Piece]:
    """Like ``generate``, but gives each piece of text as soon as it is certain."""
    return text.stream(model, tokenizer, _as_list(prompts), read_settings(settings))


def _as_list(prompts: str | Sequence[str]) -> Sequence[str]:
    return [prompts] if isinstance(prompts, str) else prompts
