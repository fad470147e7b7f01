"""The original's npy folder: names, transposition, surplus rows, unknown head counts."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pangu_core.checkpoint.formats import npy
from pangu_core.checkpoint.formats.form import Request
from pangu_core.checkpoint.formats.mindspore.names import is_transposed, original_name
from pangu_core.checkpoint.reader import Checkpoint
from pangu_core.checkpoint.stream import Target, write_stream
from pangu_core.config.model import PRESETS, ModelConfig
from pangu_core.config.stages import ConvertConfig, RunIdentity
from pangu_core.entry.formats import convert
from pangu_core.errors import CheckpointError, ConfigError
from pangu_core.layout import parameter_shapes, whole

RUN = RunIdentity(name="npy", uid="npy")


@pytest.fixture
def folder(tmp_path):
    """An npy folder of two layers whose every number is different."""
    model = ModelConfig(num_layers=2, hidden_size=4, num_heads=2, vocab_size=11, sequence_length=3)
    return write_folder(tmp_path / "npy", model)


def write_folder(folder, model, dtype=np.float32):
    folder.mkdir()
    start = 0
    for name, shape in parameter_shapes(model).items():
        array = np.arange(start, start + np.prod(shape), dtype=dtype).reshape(shape)
        start += array.size
        np.save(folder / f"{original_name(name)}.npy", array.T if is_transposed(name) else array)
    return folder


def read(folder, **request):
    return npy.read(folder, Request(run=RUN, **request))


def sizes(folder, **request):
    return read(folder, **request).header.model


def import_folder(source, target, **request):
    weights = read(source, **request)
    write_stream(Target(target, weights.header), weights.tensors)
    return Checkpoint.open(target)


def test_every_parameter_arrives_in_our_orientation(folder, tmp_path):
    model = sizes(folder, num_heads=2)
    checkpoint, start = import_folder(folder, tmp_path / "out", model=model), 0
    for name, shape in parameter_shapes(model).items():
        expected = torch.arange(start, start + int(np.prod(shape))).reshape(shape).float()
        assert torch.equal(checkpoint.read(f"model/{name}", whole(shape)), expected), name
        start += expected.numel()


def test_sizes_come_from_the_files(folder):
    model = sizes(folder, num_heads=4)
    assert (model.num_layers, model.hidden_size, model.vocab_size) == (2, 4, 11)
    assert (model.num_heads, model.sequence_length, model.activation) == (4, 3, "gelu_tanh")


def test_unknown_heads_are_asked_for(folder):
    with pytest.raises(ConfigError, match="do not say how many attention heads"):
        read(folder)


def test_the_heads_of_a_published_network_are_known(tmp_path):
    tmp_path.joinpath("npy").mkdir()
    for name, shape in parameter_shapes(PRESETS["350M"]).items():
        path = tmp_path / "npy" / f"{original_name(name)}.npy"
        stored = shape[::-1] if is_transposed(name) else shape
        np.lib.format.open_memmap(path, "w+", np.float16, stored)  # sparse: takes no space
    assert sizes(tmp_path / "npy").num_heads == 16


def test_surplus_vocabulary_rows_are_dropped(folder, tmp_path):
    model = sizes(folder, num_heads=2).model_copy(update={"vocab_size": 9})
    assert sizes(folder, model=model) == model
    table = import_folder(folder, tmp_path / "out", model=model).read(
        "model/word_embedding.weight", ((0, 9), (0, 4))
    )
    assert torch.equal(table, torch.arange(36.0).reshape(9, 4))


def test_other_sizes_than_configured_are_named(folder):
    model = sizes(folder, num_heads=2).model_copy(update={"sequence_length": 7})
    with pytest.raises(ConfigError, match="sequenceLength: 3: must equal the configured 7"):
        read(folder, model=model)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 5), np.float32), r"shape \(4, 5\)"),
        (np.zeros((4, 4), np.int32), "int32"),
        (np.array([[object()]]), "whole npy file without objects"),
    ],
)
def test_a_wrong_file_is_named(folder, array, message):
    model = sizes(folder, num_heads=2)
    path = folder / "backbone.blocks.0.attention.dense2.weight.npy"
    np.save(path, array, allow_pickle=True)
    with pytest.raises(CheckpointError, match=message) as caught:
        read(folder, model=model)
    assert caught.value.subject == str(path)


@pytest.mark.parametrize("size", [0, 5, 100, 140])
def test_a_truncated_file_is_named(folder, size):
    model = sizes(folder, num_heads=2)
    path = folder / "backbone.top_query_layer.output.mapping.weight.npy"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"mapping.weight.npy"):
        read(folder, model=model)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """A file that hypothesis writes again and again, and its first content."""
    path = tmp_path_factory.mktemp("scratch") / "a.npy"
    np.save(path, np.arange(24, dtype=np.float32).reshape(6, 4))
    return path, path.read_bytes()


# The library's advice to save the file again.
@pytest.mark.filterwarnings("ignore:Reading `.npy`:UserWarning")
@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, 230), junk=st.binary(max_size=9), skip=st.integers(0, 20))
def test_a_damaged_file_is_read_or_refused_and_nothing_else(scratch, at, junk, skip):
    path, whole_file = scratch
    path.write_bytes(whole_file[:at] + junk + whole_file[at + skip :])
    try:
        stored = npy.stored_file(path)
        subject = stored.where
        assert stored.read().numel() <= 24 + len(junk)
    except CheckpointError as error:
        subject = error.subject
    assert subject == str(path)


def test_a_missing_file_is_named(folder):
    model = sizes(folder, num_heads=2)
    (folder / "backbone.layernorm.beta.npy").unlink()
    with pytest.raises(CheckpointError, match=r"no backbone\.layernorm\.beta"):
        read(folder, model=model)


def test_half_precision_and_column_order_are_kept(folder, tmp_path):
    path = folder / "backbone.layernorm.gamma.npy"
    np.save(path, np.linspace(0, 1, 4).astype(">f2"))
    table = folder / "backbone.position_embedding.embedding_table.npy"
    np.save(table, np.asfortranarray(np.load(table)))
    checkpoint = import_folder(folder, tmp_path / "out", num_heads=2)
    gamma = checkpoint.read("model/ln_f.weight", ((0, 4),))
    assert torch.equal(gamma, torch.linspace(0, 1, 4).half())
    positions = checkpoint.read("model/position_embedding.weight", ((0, 3), (0, 4)))
    assert torch.equal(positions, torch.from_numpy(np.load(table)))


@pytest.mark.shared
def test_the_originals_own_files_are_imported(shared, tmp_path):
    golden = shared / "golden" / "mindspore_tiny"
    sizes = json.loads((golden / "config.json").read_text())
    model = ModelConfig(
        num_layers=sizes["layers"],
        hidden_size=sizes["hidden"],
        num_heads=sizes["heads"],
        vocab_size=sizes["vocab"],
        sequence_length=sizes["seq"],
    )
    config = ConvertConfig(run=RUN, source="npy", target="out", model=model)
    convert(golden / "npy", tmp_path / "out", config)
    checkpoint = Checkpoint.open(tmp_path / "out")
    assert checkpoint.verify() == []
    up = checkpoint.read("model/query_layer.mlp.up.weight", ((0, 256), (0, 64)))
    original = np.load(golden / "npy" / "backbone.top_query_layer.output.mapping.weight.npy")
    assert torch.equal(up, torch.from_numpy(original.T.copy()))
