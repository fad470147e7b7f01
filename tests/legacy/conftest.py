"""The original commands in this process, on a tiny network, with the published vocabulary."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pangu_core.checkpoint.formats.form import Request, Weights
from pangu_core.checkpoint.formats.megatron import port
from pangu_core.checkpoint.manifest import MODEL, Header, key_of
from pangu_core.checkpoint.reader import silent
from pangu_core.checkpoint.stream import Incoming
from pangu_core.config.model import ModelConfig
from pangu_core.config.stages import RunIdentity
from pangu_core.data.token_files import TokenFileWriter
from pangu_core.data.tokenizer import Tokenizer
from pangu_core.layout import parameter_names
from pangu_core.legacy.__main__ import main
from pangu_core.model.weights import initial_value

RUN = RunIdentity(name="tiny", uid="tiny")
TINY = ModelConfig(num_layers=3, hidden_size=16, num_heads=4, sequence_length=64, init_std=0.3)


def tiny_weights() -> Weights:
    """Fresh fp16 weights, as any reader gives them."""

    def incoming(name: str) -> Incoming:
        value = initial_value(name, TINY, seed=3).half()
        return Incoming(tuple(value.shape), "fp16", lambda: value)

    tensors = {key_of(MODEL, name): incoming(name) for name in parameter_names(TINY.num_layers)}
    return Weights(header=Header(model=TINY, run=RUN, dtype="fp16"), tensors=tensors)


@pytest.fixture
def legacy(monkeypatch, caplog, capsys):
    """Run ``pangu legacy`` with a command line as the README prints it; returns what it did.

    The sizes of the tiny network stand where the README has those of 2.6B.
    """
    monkeypatch.setattr("pangu_core.log.set_up", lambda who: None)
    # Signal handlers would stay in the process of the tests.
    monkeypatch.setattr("pangu_core.training.signals.StopRequests.listen", lambda self: None)
    monkeypatch.setattr("builtins.input", lambda question: "stop")
    caplog.set_level("INFO")

    def run(line: str, **values: object) -> SimpleNamespace:
        caplog.clear()
        words = [word.format(**values) for word in line.replace("\\\n", " ").split()]
        code = main(words)
        said = capsys.readouterr()
        return SimpleNamespace(code=code, log=caplog.text, out=said.out, err=said.err)

    return run


@pytest.fixture(scope="session")
def weights() -> Weights:
    """What the released folder holds."""
    return tiny_weights()


@pytest.fixture(scope="session")
def released(tmp_path_factory, corpora) -> Path:
    """A folder laid out like Pangu-alpha_2.6B_fp16_mgt: one file of fp16, 40,064 rows."""
    folder = tmp_path_factory.mktemp("released") / "mgt"
    port.write(tiny_weights(), folder, request=Request(run=RUN), replace_old=False, report=silent)
    return folder


@pytest.fixture(scope="session")
def tokens(tmp_path_factory, corpora) -> Path:
    """Prefix of token files: the beginning of the People's Daily, a line a document."""
    prefix = tmp_path_factory.mktemp("tokens") / "text_document"
    tokenizer = Tokenizer(corpora / "vocab.model")
    with (corpora / "peoples_daily.txt").open(encoding="utf-8") as text:
        lines = [line.strip() for _, line in zip(range(60), text, strict=False)]
    with TokenFileWriter(prefix, vocab_size=tokenizer.vocab_size) as writer:
        for line in filter(None, lines):
            writer.add([*tokenizer.encode(line), tokenizer.eod_id])
            writer.end_document()
    return prefix


@pytest.fixture(scope="session")
def contents():
    """Every tensor of a folder of the port's."""

    def read(folder: Path, *, optimizer: bool = False) -> dict[str, torch.Tensor]:
        weights = port.read(folder, Request(run=RUN, optimizer=optimizer))
        return {key: tensor.read() for key, tensor in weights.tensors.items()}

    return read
