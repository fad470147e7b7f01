"""Saving and loading: whole or invisible, checked while read, refused when of other sizes."""

import json
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from pangu_core.checkpoint.manifest import Layout, check_sizes, parse, read_manifest
from pangu_core.checkpoint.reader import Checkpoint
from pangu_core.checkpoint.store import Store
from pangu_core.checkpoint.tensor_file import DTYPES, Entry, TensorFile, TensorWriter
from pangu_core.errors import CheckpointError, ConfigError
from pangu_core.layout import whole


def test_what_is_saved_is_read_back(small, tmp_path):
    tensors = small.tensors()
    saved = Store(tmp_path).save(7, small.pieces(tensors, Layout()), small.header(samples=56))
    checkpoint = Checkpoint.open(saved.folder)
    assert (checkpoint.manifest.step, checkpoint.manifest.samples) == (7, 56)
    assert checkpoint.manifest.model == small.model
    assert checkpoint.manifest_sha256 == saved.manifest_sha256
    for key, tensor in tensors.items():
        assert torch.equal(checkpoint.read(key, whole(tuple(tensor.shape))), tensor)


@pytest.mark.parametrize("name", DTYPES)
def test_the_safetensors_library_reads_our_files(name, tmp_path):
    tensor = torch.arange(15).reshape(3, 5).to(DTYPES[name].torch)
    path = tmp_path / "a.safetensors"
    with TensorWriter(path, [Entry("x", (3, 5), name), Entry("y", (), name)], {}) as writer:
        writer.write("x", tensor)
        writer.write("y", tensor[1, 2])
    with safe_open(path, "pt") as file:
        assert torch.equal(file.get_tensor("x"), tensor)
        assert torch.equal(file.get_tensor("y"), tensor[1, 2])
    assert TensorFile(path).entry("x") == Entry("x", (3, 5), name)


def test_a_shard_explains_itself(small, tmp_path):
    saved = small.save_as(Store(tmp_path), 1, small.tensors(), Layout(2, 1))[0]
    with safe_open(saved.folder / "model-00001.safetensors", "pt") as file:
        slices = json.loads(file.metadata()["slices"])
    assert slices["model/word_embedding.weight"] == [[13, 8], [[7, 13], [0, 8]]]


def test_values_are_cast_into_the_tensors_that_wait_for_them(small, tmp_path):
    tensors = small.tensors(optimizer=False)
    saved = Store(tmp_path).save(1, small.pieces(tensors, Layout()), small.header())
    waiting = torch.zeros(3, 8, dtype=torch.bfloat16)
    key = "model/word_embedding.weight"
    Checkpoint.open(saved.folder).load_into({key: (((4, 7), (0, 8)), waiting)})
    assert torch.equal(waiting, tensors[key][4:7].bfloat16())


def test_missing_moments_are_fatal_when_asked_for(small, tmp_path):
    pieces = small.pieces(small.tensors(optimizer=False), Layout())
    checkpoint = Checkpoint.open(Store(tmp_path).save(1, pieces, small.header()).folder)
    assert not checkpoint.manifest.has_optimizer
    with pytest.raises(CheckpointError, match=r"exp_avg/ln_f.weight: not in this checkpoint"):
        checkpoint.load_into({"exp_avg/ln_f.weight": (((0, 8),), torch.zeros(8))})


def test_pieces_that_leave_a_gap_are_never_committed(small, tmp_path):
    pieces = small.pieces(small.tensors(), Layout())[1:]
    with pytest.raises(CheckpointError, match="without overlap or gap"):
        Store(tmp_path).save(1, pieces, small.header())
    assert [path.name for path in tmp_path.iterdir()] == ["owner.json"]


def test_a_checkpoint_of_other_sizes_names_the_field(small):
    other = small.model.model_copy(update={"hidden_size": 16})
    with pytest.raises(
        ConfigError,
        match=r"runs/a/step-1: model.hiddenSize: 8: must equal the configured 16; "
        "set model.hiddenSize to 8, .*, or give the job another name",
    ):
        check_sizes(small.header(), other, source=Path("runs/a/step-1"))
    check_sizes(small.header(), small.model.model_copy(update={"init_std": 0.5}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "must be a manifest of version 1"),
        ({"extra": 1}, "extra"),
        ({"step": "7"}, "step"),
        ({"step": -1}, "step"),
        ({"slices": []}, "without overlap or gap"),
        ({"vocabulary": {"file": "../../etc/passwd", "sha256": "0" * 64}}, "vocabulary.file"),
    ],
)
def test_a_strange_manifest_is_refused(small, tmp_path, change, message):
    saved = Store(tmp_path).save(7, small.pieces(small.tensors(), Layout()), small.header())
    _, data = read_manifest(saved.folder)
    with pytest.raises(CheckpointError, match=message):
        parse(json.dumps({**json.loads(data), **change}).encode(), "manifest.json")


@pytest.mark.parametrize("name", ["../x", "/etc/x", ".x", "a/b", ""])
def test_a_manifest_cannot_reach_outside_its_folder(small, tmp_path, name):
    saved = Store(tmp_path).save(7, small.pieces(small.tensors(), Layout()), small.header())
    values = json.loads(read_manifest(saved.folder)[1])
    values["slices"][0]["file"] = name
    with pytest.raises(CheckpointError, match=r"slices.0.file"):
        parse(json.dumps(values).encode(), "manifest.json")


def test_the_vocabulary_travels_with_the_weights(small, tmp_path):
    source = tmp_path / "pangu.model"
    source.write_bytes(b"pieces")
    store = Store(tmp_path / "checkpoints")
    pieces = small.pieces(small.tensors(), Layout())
    checkpoint = Checkpoint.open(store.save(1, pieces, small.header(), vocabulary=source).folder)
    copy = checkpoint.vocabulary()
    assert copy.read_bytes() == b"pieces"
    copy.write_bytes(b"others")
    with pytest.raises(CheckpointError, match=r"vocab.model"):
        checkpoint.vocabulary()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_happens_to_a_shard_it_reads_the_same_or_not_at_all(shard, data):
    tensors, folder, original = shard
    name = "model-00000.safetensors"
    damaged = bytearray(original)
    for position in data.draw(st.lists(st.integers(0, len(original) - 1), max_size=3)):
        damaged[position] = data.draw(st.integers(0, 255))
    (folder / name).write_bytes(damaged[: data.draw(st.integers(0, 2 * len(original)))])
    checkpoint = Checkpoint.open(folder)
    try:
        found = {key: checkpoint.read(key, whole(tuple(t.shape))) for key, t in tensors.items()}
    except CheckpointError:
        return
    assert all(torch.equal(found[key], tensor) for key, tensor in tensors.items())


@pytest.fixture(scope="module")
def shard(small, tmp_path_factory):
    tensors = small.tensors(optimizer=False)
    store = Store(tmp_path_factory.mktemp("shard"))
    folder = store.save(1, small.pieces(tensors, Layout()), small.header()).folder
    return tensors, folder, (folder / "model-00000.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"\xff" * 8, "a header of 18446744073709551615 bytes at offset 0"),
        (b"\x02\0\0\0\0\0\0\0[]", "must be a JSON object"),
        (b"\x02\0\0\0\0\0\0\0{]", "offset 8"),
        (b'\x0c\0\0\0\0\0\0\0{"x": 12345}', "must have dtype, shape, data_offsets"),
        (b"\x01", "a header of 1 bytes at offset 0"),
    ],
)
def test_a_header_is_not_trusted(header, message, tmp_path):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(header)
    with pytest.raises(CheckpointError, match=re.escape(message)):
        TensorFile(path)


@pytest.mark.parametrize(
    ("shape", "offsets", "message"),
    [
        ([2**40], [0, 2**42], "truncated: must hold all tensors"),
        ([2], [0, 4], "a shape that fits its data_offsets"),
        ([-1], [0, -4], "a shape that fits its data_offsets"),
        ([True], [0, 4], "a shape that fits its data_offsets"),
    ],
)
def test_a_tensor_cannot_reach_outside_its_file(shape, offsets, message, tmp_path):
    table = {"x": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}
    text = json.dumps(table).encode()
    path = tmp_path / "bad.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(CheckpointError, match=message):
        TensorFile(path)


def test_a_manifest_of_millions_of_layers_is_refused_at_once(small, tmp_path):
    saved = Store(tmp_path).save(7, small.pieces(small.tensors(), Layout()), small.header())
    manifest = json.loads(read_manifest(saved.folder)[1])
    manifest["model"]["numLayers"] = 2**24 - 1
    with pytest.raises(CheckpointError, match=r"16777215 layers, \d+ slices"):
        parse(json.dumps(manifest).encode(), "manifest.json")
