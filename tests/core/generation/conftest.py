"""A small random model, a vocabulary with byte pieces, and a model that counts."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import sentencepiece
import torch

from pangu_core.checkpoint.manifest import MODEL, Header, key_of
from pangu_core.checkpoint.store import Store
from pangu_core.checkpoint.writer import Piece
from pangu_core.config.model import ModelConfig
from pangu_core.config.stages import RunIdentity
from pangu_core.data.tokenizer import Tokenizer
from pangu_core.generation.decoding import Decoder
from pangu_core.generation.language_model import LanguageModel
from pangu_core.generation.settings import GenerationSettings
from pangu_core.model.gpt import Build, PanguModel
from pangu_core.model.weights import initialise, local_parts

SENTENCES = ["四川的省会是成都", "今天天气不错", "你好啊", "hello world"]
MARKS = ["\u2583", "\u2582", "<sep>", "<pad>", "<mask>", "<eod>", "<eot>"]


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory) -> Tokenizer:
    """PanGu-alpha's special ids, few characters, and bytes for all others."""
    return small_tokenizer(tmp_path_factory.mktemp("vocabulary"))


def small_tokenizer(folder: Path) -> Tokenizer:
    """Train a vocabulary into a folder."""
    prefix = folder / "vocab"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 20),
        model_prefix=str(prefix),
        vocab_size=340,
        hard_vocab_limit=False,
        byte_fallback=True,
        user_defined_symbols=MARKS,
        num_threads=1,
        minloglevel=2,
    )
    return Tokenizer(prefix.with_suffix(".model"))


def build_model(
    vocab_size: int, dtype: torch.dtype = torch.float32, sequence_length: int = 32
) -> LanguageModel:
    """Weights wide enough that no two tokens are nearly as likely as each other."""
    config = ModelConfig(
        num_layers=3,
        hidden_size=32,
        num_heads=4,
        vocab_size=vocab_size,
        sequence_length=sequence_length,
        init_std=0.2,
    )
    network = PanguModel(config, Build(parameter_dtype=dtype, compute_dtype=dtype))
    initialise(network, seed=5)
    return LanguageModel(network)


@pytest.fixture(scope="session")
def model(tokenizer) -> LanguageModel:
    """A random network that speaks the small vocabulary."""
    return build_model(tokenizer.vocab_size)


class CountingModel:
    """Says the id that follows the last one; 10 after 8 unless ``ends`` lets 9 come."""

    def __init__(self, ends: bool) -> None:
        self.config = ModelConfig(
            num_layers=1, hidden_size=8, num_heads=2, vocab_size=60, sequence_length=40
        )
        self.device = torch.device("cpu")
        self.ends = ends
        self.batch_sizes: list[int] = []

    def new_cache(self, batch_size: int, capacity: int) -> SimpleNamespace:
        return SimpleNamespace(keep=lambda rows: None)

    def extend(self, tokens_BT, positions_BT, cache, last_B):
        self.batch_sizes.append(len(tokens_BT))
        following = tokens_BT[torch.arange(len(tokens_BT)), last_B] + 1
        if not self.ends:
            following[following == 9] = 10
        return torch.nn.functional.one_hot(following, 60).float() * 50


class LetterTokenizer:
    """Id n is a letter, but ids from 20 to 29 are the pieces a0b to a9b."""

    eod_id = 9

    def encode(self, text: str) -> list[int]:
        return [ord(letter) - ord("A") for letter in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(f"a{i - 20}b" if 20 <= i < 30 else chr(ord("A") + i) for i in ids)

    def is_byte(self, token_id: int) -> bool:
        return False


@pytest.fixture
def counting() -> SimpleNamespace:
    """``counting.model(ends)`` and its tokenizer."""
    return SimpleNamespace(model=lambda ends=True: CountingModel(ends), tokenizer=LetterTokenizer())


def decode_ids(model, prompts, streams=None, **settings) -> list[list[int]]:
    """Token ids for prompts of token ids, max_new_tokens each."""
    rules = GenerationSettings(**settings)
    decoder = Decoder(model, prompts, streams or list(range(len(prompts))), rules)
    steps = [decoder.step() for _ in range(rules.max_new_tokens)]
    return [[step[row] for step in steps] for row in range(len(prompts))]


@pytest.fixture(scope="session")
def tools() -> SimpleNamespace:
    """Functions that several modules use."""
    return SimpleNamespace(build_model=build_model, decode_ids=decode_ids, save=save)


def save(folder: Path, model: LanguageModel, vocabulary: Path | None, step: int = 1) -> Path:
    """Write the model as a checkpoint of a store; returns the checkpoint's folder."""
    pieces = [
        Piece(key_of(MODEL, name), tuple(tensor.shape), part, tensor)
        for name, tensor, part in local_parts(model.network)
    ]
    header = Header(model=model.config, run=RunIdentity(name="r", uid="u"))
    return Store(folder).save(step, pieces, header, vocabulary=vocabulary).folder
