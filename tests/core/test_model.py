"""The network's mathematics."""

import numpy as np
import pytest
import torch

from pangu_core import layout
from pangu_core.config.model import ModelConfig
from pangu_core.dist import ALONE, Axis
from pangu_core.model.gpt import ACTIVATIONS, Build, PanguModel, fast_gelu
from pangu_core.model.weights import initialise
from pangu_core.parallel.loss import vocab_parallel_cross_entropy
from pangu_core.parallel.rng import Dropout, DropoutKey, derive_seed

CONFIG = ModelConfig(num_layers=3, hidden_size=32, num_heads=4, vocab_size=61, sequence_length=16)
KEY = DropoutKey(seed=1, step=2, micro_batch=3)


def network(**build) -> PanguModel:
    defaults = {"parameter_dtype": torch.float64, "compute_dtype": torch.float64}
    model = PanguModel(CONFIG, Build(**{**defaults, **build}))
    initialise(model, seed=1)
    return model


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(10, 61, (2, 12), generator=torch.Generator().manual_seed(3))


def test_parameters_have_the_names_and_shapes_of_the_layout_table():
    found = {name: tuple(p.shape) for name, p in network().named_parameters()}
    assert found == layout.parameter_shapes(CONFIG)


def test_the_query_layer_sees_positions_and_never_token_ids(tokens):
    """With keys and values cut off, the same logits come out for any text."""
    model = network()
    with torch.no_grad():
        for name in ("value", "output"):
            getattr(model.query_layer.attention, name).weight.zero_()
        model.ln_f.weight.zero_()
    assert torch.equal(model(tokens)[0], model(tokens)[1])


def test_nothing_is_normalised_after_the_query_layer(tokens):
    model = network()
    before = model(tokens)
    with torch.no_grad():
        model.query_layer.mlp.down.bias.add_(1.0)
    shift = model.word_embedding.weight.sum(dim=1)
    torch.testing.assert_close(model(tokens) - before, shift.expand_as(before))


def test_a_document_in_a_packed_row_is_computed_as_if_alone(tokens):
    model = network()
    first, second = tokens[:1, :5], tokens[:1, 5:]
    positions = torch.cat([torch.arange(5), torch.arange(7)])[None]
    documents = torch.tensor([[0] * 5 + [1] * 7], dtype=torch.int32)
    packed = model(tokens[:1], positions_BT=positions, documents_BT=documents)
    alone = torch.cat([model(first), model(second)], dim=1)
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-12)


def test_recomputation_changes_no_gradient(tokens):
    gradients = []
    for recompute in (False, True):
        model = network(recompute=recompute, attention_dropout=0.2, hidden_dropout=0.2)
        model(tokens, dropout=KEY).square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, expected in gradients[0].items():
        assert torch.equal(gradients[1][name], expected), name


def test_attention_by_hand_is_the_librarys(tokens):
    """The path that dropout takes, with a probability too small to drop anything."""
    expected = network()(tokens)
    by_hand = network(attention_dropout=1e-12)(tokens, dropout=KEY)
    torch.testing.assert_close(by_hand, expected, rtol=0, atol=1e-11)


def test_dropout_is_a_function_of_its_key_and_place():
    x, key, other = torch.ones(1000), KEY.tensor(), DropoutKey(1, 2, 4).tensor()
    drop = Dropout(0.25, "here")
    assert torch.equal(drop(x, key), drop(x, key))
    assert not torch.equal(drop(x, key), Dropout(0.25, "there")(x, key))
    assert not torch.equal(drop(x, key), drop(x, other))
    assert (drop(x, key) == 0).double().mean().item() == pytest.approx(0.25, abs=0.05)
    assert sorted(set(drop(x, key).tolist())) == pytest.approx([0.0, 4 / 3])
    assert drop(x, None) is x


def test_a_spread_stream_gets_the_same_dropout():
    x, key = torch.ones(2, 8, 16), KEY.tensor()
    parts = [Dropout(0.25, "here", stream=Axis(rank, 4))(x[:, :2], key) for rank in range(4)]
    assert torch.equal(torch.cat(parts, dim=1), Dropout(0.25, "here")(x, key))


def test_a_seed_is_the_same_on_every_machine():
    assert derive_seed(1234, "initial", "ln_f.weight") == 4903615666253803601


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_an_activation_is_its_formula(name):
    x = np.linspace(-6, 6, 241)
    erf = np.array([torch.erf(torch.tensor(v / 2**0.5, dtype=torch.float64)).item() for v in x])
    formulas = {
        "gelu_erf": x * 0.5 * (1 + erf),
        "gelu_tanh": 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
        "fast_gelu": x / (1 + np.exp(-1.702 * abs(x))) * np.exp(0.851 * (x - abs(x))),
    }
    ours = ACTIVATIONS[name](torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(ours, formulas[name], rtol=0, atol=1e-12)


def test_the_activations_differ_as_measured():
    x = torch.linspace(-8, 8, 100_001, dtype=torch.float64)
    erf, tanh = ACTIVATIONS["gelu_erf"](x), ACTIVATIONS["gelu_tanh"](x)
    assert (erf - tanh).abs().max().item() == pytest.approx(4.7e-4, rel=0.01)
    assert (fast_gelu(x) - erf).abs().max().item() == pytest.approx(2.0e-2, rel=0.02)


def test_the_loss_and_its_gradient_are_the_librarys():
    logits = torch.randn(7, 61, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    targets = torch.arange(7) * 8
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = vocab_parallel_cross_entropy(ours, targets, start=0, rows=61, axis=ALONE)
    expected = torch.nn.functional.cross_entropy(theirs, targets, reduction="none")
    torch.testing.assert_close(loss, expected)
    weights = torch.arange(7.0, dtype=torch.float64)
    (loss * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_padding_columns_neither_win_nor_learn():
    logits = torch.zeros(2, 8, dtype=torch.float64)
    logits[:, 5:] = 1e4
    logits.requires_grad_()
    loss = vocab_parallel_cross_entropy(logits, torch.tensor([0, 4]), start=0, rows=5, axis=ALONE)
    assert loss.tolist() == pytest.approx([np.log(5)] * 2)
    loss.sum().backward()
    assert logits.grad[:, 5:].abs().max() == 0
