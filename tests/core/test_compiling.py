"""What compiling needs is looked for before anything is loaded."""

from pathlib import Path

import pytest
import torch

from pangu_core.config.model import ModelConfig
from pangu_core.errors import ConfigError
from pangu_core.model.compiling import compile_layers
from pangu_core.model.gpt import PanguModel

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def network() -> PanguModel:
    return PanguModel(
        ModelConfig(num_layers=2, hidden_size=8, num_heads=2, vocab_size=11, sequence_length=4)
    )


@pytest.fixture
def tools(tmp_path: Path, monkeypatch) -> Path:
    """The only folder on the path, empty."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    (tmp_path / "Python.h").touch()
    return tmp_path


def install(folder: Path, name: str) -> None:
    (folder / name).touch(mode=0o755)


@pytest.mark.parametrize(("device", "what"), [(CPU, r"no g\+\+"), (GPU, "no gcc or clang")])
def test_a_machine_without_compiler_is_refused(network, tools, device, what):
    with pytest.raises(ConfigError, match=rf"train.compile: {what}.*leave train.compile out"):
        compile_layers(network, device)


def test_a_machine_without_header_files_is_refused(network, tools):
    install(tools, "g++")
    (tools / "Python.h").unlink()
    with pytest.raises(ConfigError, match="header files"):
        compile_layers(network, CPU)


def test_a_compiler_that_is_named_must_be_there(network, tools, monkeypatch):
    monkeypatch.setenv("CXX", "c++-9")
    install(tools, "g++")
    with pytest.raises(ConfigError, match=r"no c\+\+-9"):
        compile_layers(network, CPU)


def test_parameters_keep_their_names(network, tools):
    names = [name for name, _ in network.named_parameters()]
    install(tools, "clang")
    compile_layers(network, GPU)
    assert [name for name, _ in network.named_parameters()] == names
