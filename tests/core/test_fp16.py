"""What fp16's short range could break in the network."""

import pytest
import torch

from pangu_core.config.model import ModelConfig
from pangu_core.model.gpt import Build, PanguModel
from pangu_core.model.weights import initialise
from pangu_core.parallel.rng import DropoutKey

CONFIG = ModelConfig(num_layers=2, hidden_size=32, num_heads=2, vocab_size=50, sequence_length=16)
TOKENS = torch.arange(32).view(2, 16)
DOCUMENTS = torch.tensor([[0] * 6 + [1] * 10, [0] * 16])


def logits(*, dropout: float, documents: torch.Tensor | None) -> torch.Tensor:
    """Of a network whose queries times keys exceed fp16's range before they are scaled."""
    build = Build(compute_dtype=torch.float16, attention_dropout=dropout)
    model = PanguModel(CONFIG, build)
    initialise(model, seed=1)
    with torch.no_grad():
        for layer in model.layers:
            layer.attention.query.bias.fill_(80.0)
            layer.attention.key.bias.fill_(80.0)
        key = DropoutKey(1, 1, 0)
        return model(TOKENS, documents_BT=documents, dropout=key)


@pytest.mark.parametrize("dropout", [0.0, 1e-6])
@pytest.mark.parametrize("documents", [None, DOCUMENTS])
def test_attention_scores_do_not_overflow_before_they_are_scaled(dropout, documents):
    """16 x 80 x 80 is 102,400; a head of 16 scales it to 25,600."""
    assert logits(dropout=dropout, documents=documents).isfinite().all()
