"""Tensor-parallel generation says what one process says, on every rank."""

import pytest
import torch

from pangu_core.checkpoint.manifest import MODEL, Header, key_of
from pangu_core.checkpoint.store import Store
from pangu_core.checkpoint.writer import Piece
from pangu_core.config.model import ModelConfig
from pangu_core.config.stages import RunIdentity
from pangu_core.dist import topology
from pangu_core.errors import ConfigError
from pangu_core.generation.decoding import Decoder
from pangu_core.generation.load import load
from pangu_core.generation.settings import GenerationSettings
from pangu_core.layout import whole
from pangu_core.model.gpt import PanguModel
from pangu_core.model.weights import initialise

pytestmark = pytest.mark.parallel

# 101 rows do not divide by 2: the last rank's table ends in a padding row.
CONFIG = ModelConfig(
    num_layers=3, hidden_size=32, num_heads=4, vocab_size=101, sequence_length=32, init_std=0.2
)
PROMPTS = [[11, 42], [100, 7, 30, 31, 32, 33], [55]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store with one checkpoint of a random model."""
    network = PanguModel(CONFIG)
    initialise(network, seed=5)
    pieces = [
        Piece(key_of(MODEL, name), tuple(p.shape), whole(tuple(p.shape)), p)
        for name, p in network.named_parameters()
    ]
    root = tmp_path_factory.mktemp("store")
    Store(root).save(1, pieces, Header(model=CONFIG, run=RunIdentity(name="r", uid="u")))
    return str(root)


def generate(folder: str, tp: int, settings: dict) -> tuple[list, torch.Tensor]:
    """Tokens of each step, and logits of the first prompt."""
    model = load(folder, axis=topology(tp).tp).model
    decoder = Decoder(model, PROMPTS, [1, 2, 3], GenerationSettings(**settings))
    return [decoder.step() for _ in range(20)], model(torch.tensor(PROMPTS[:1]))


def refuse(folder: str, tp: int) -> str:
    try:
        load(folder, axis=topology(tp).tp)
    except ConfigError as error:
        return str(error)
    return "loaded"


@pytest.mark.parametrize("settings", [{"greedy": True}, {"top_p": 0.95, "temperature": 1.5}])
def test_two_tensor_ranks_say_what_one_says(ranks, folder, settings):
    settings["max_new_tokens"] = 20
    tokens, logits = generate(folder, 1, settings)
    results = ranks.run(2, generate, folder, 2, settings)
    for ranks_tokens, ranks_logits in results:
        assert ranks_tokens == tokens
        assert ranks_logits.shape == (1, 2, 101)
        assert (ranks_logits - logits).abs().max() < 1e-5


def test_heads_that_do_not_divide_are_refused(ranks, folder):
    for message in ranks.run(3, refuse, folder, 3):
        assert message.startswith("tensor parallel size: 3: must divide the model's heads (4)")
