"""MindSpore weights become checkpoints: names, sizes, moments, logits of the original itself."""

import json
import logging
from itertools import product

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import pangu_core
from pangu_core.checkpoint.formats.form import Request
from pangu_core.checkpoint.formats.mindspore import files
from pangu_core.checkpoint.formats.mindspore.names import is_transposed, original_of_key, spellings
from pangu_core.checkpoint.reader import Checkpoint
from pangu_core.config.model import ModelConfig
from pangu_core.config.stages import ConvertConfig
from pangu_core.entry import formats
from pangu_core.entry.convert import main
from pangu_core.errors import CheckpointError, ConfigError
from pangu_core.layout import whole
from pangu_core.loading import dump_yaml


@pytest.fixture
def convert(mindspore):
    """Convert as the command does; settings as in a config file."""

    def call(source, target, heads=mindspore.model.num_heads, **settings):
        config = ConvertConfig(run=mindspore.run, source="source", target="target", **settings)
        formats.convert(source, target, config, num_heads=heads)
        return target

    return call


@pytest.fixture
def read(mindspore):
    def call(source, **request):
        heads = mindspore.model.num_heads
        return files.read(source, Request(**{"run": mindspore.run, "num_heads": heads, **request}))

    return call


def contents(folder):
    """Key -> tensor, in the original's orientation and by its name."""
    checkpoint = Checkpoint.open(folder)
    found = {}
    for stored in checkpoint.manifest.slices:
        value = checkpoint.read(stored.key, whole(stored.shape))
        found[original_of_key(stored.key)] = value.t() if is_transposed(stored.key) else value
    return found


def same(found, arrays):
    return found.keys() == arrays.keys() and all(
        torch.equal(found[name], torch.from_numpy(array)) for name, array in arrays.items()
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("optimizer", [False, True])
def test_every_tensor_arrives_bit_for_bit(convert, mindspore, tmp_path, dtype, optimizer):
    arrays = mindspore.arrays(dtype=dtype, optimizer=optimizer)
    mindspore.write(tmp_path / "a.ckpt", arrays)
    target = convert(tmp_path / "a.ckpt", tmp_path / "ours", optimizer=optimizer)
    assert same(contents(target), arrays)
    assert Checkpoint.open(target).manifest.model == mindspore.model


@pytest.mark.parametrize(
    ("form", "dtype"),
    [*product(["mindspore"], ["fp16", "bf16", "fp32"]), *product(["npy"], ["fp16", "fp32"])],
)
def test_there_and_back_changes_no_bit(convert, mindspore, tmp_path, form, dtype):
    mindspore.write(tmp_path / "a.ckpt", mindspore.arrays(optimizer=True))
    first = convert(tmp_path / "a.ckpt", tmp_path / "ours", optimizer=True, dtype=dtype)
    there = convert(first, tmp_path / "theirs", optimizer=True, to_format=form)
    back = convert(there, tmp_path / "again", optimizer=True)
    assert contents(first).keys() == contents(back).keys()
    assert all(torch.equal(contents(back)[name], value) for name, value in contents(first).items())
    assert Checkpoint.open(back).manifest.dtype == dtype


def test_npy_files_cannot_hold_bf16(convert, mindspore, tmp_path):
    mindspore.write(tmp_path / "a.ckpt", mindspore.arrays())
    first = convert(tmp_path / "a.ckpt", tmp_path / "ours", dtype="bf16")
    with pytest.raises(ConfigError, match="npy files hold only fp16, fp32, fp64"):
        convert(first, tmp_path / "npy", to_format="npy")
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt", "ours"]


@pytest.mark.parametrize("form", ["mindspore", "npy"])
def test_an_export_never_replaces_what_is_there(convert, mindspore, tmp_path, form):
    mindspore.write(tmp_path / "a.ckpt", mindspore.arrays())
    (tmp_path / "mine").write_text("thesis")
    with pytest.raises(ConfigError, match="must not exist yet"):
        convert(tmp_path / "a.ckpt", tmp_path / "mine", to_format=form)


@pytest.mark.parametrize("generation", [0, 1, 2])
def test_every_generation_of_names_is_read(read, mindspore, tmp_path, generation):
    arrays = mindspore.arrays()
    for parameter in (
        "word_embedding.weight",
        "position_embedding.weight",
        "query_embedding.weight",
    ):
        names = spellings(parameter)
        arrays[names[min(generation, len(names) - 1)]] = arrays.pop(names[0])
    weights = read(mindspore.write(tmp_path / "a.ckpt", arrays))
    assert weights.header.model == mindspore.model


def test_what_is_no_weight_is_ignored_in_one_line(read, mindspore, tmp_path, caplog):
    more = {"global_step": np.array(7, np.int32), "accu_grads.x": np.zeros((3, 3), np.float32)}
    with caplog.at_level(logging.INFO):
        weights = read(mindspore.write(tmp_path / "a.ckpt", mindspore.arrays() | more))
    assert len(weights.tensors) == 37
    assert [record.getMessage() for record in caplog.records] == [
        "ignored 2 tensors that are no weights: global_step, accu_grads.x"
    ]


def test_moments_come_along_only_if_asked_for(read, mindspore, tmp_path):
    path = mindspore.write(tmp_path / "a.ckpt", mindspore.arrays(optimizer=True))
    assert len(read(path).tensors) == 37
    assert len(read(path, optimizer=True).tensors) == 3 * 37
    path = mindspore.write(tmp_path / "b.ckpt", mindspore.arrays())
    with pytest.raises(CheckpointError, match=r"no adam_m\.backbone\.word_embedding"):
        read(path, optimizer=True)


def test_a_weight_under_two_names_is_refused(read, mindspore, tmp_path):
    arrays = mindspore.arrays()
    arrays["embedding_table"] = arrays["backbone.word_embedding.embedding_table"]
    with pytest.raises(CheckpointError, match=r"word_embedding\.weight again in .*embedding_table"):
        read(mindspore.write(tmp_path / "a.ckpt", arrays))


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("attention.dense2.weight", np.zeros((8, 9), np.float32), r"shape \(8, 9\)"),
        ("layernorm1.gamma", np.zeros((), np.float32), r"shape \(\)"),
        ("output.mapping.weight", np.zeros((8, 32), np.int32), "Int32: must be one of fp32"),
    ],
)
def test_a_wrong_tensor_is_named_with_its_offset(read, mindspore, tmp_path, name, array, message):
    arrays = mindspore.arrays() | {f"backbone.blocks.0.{name}": array}
    with pytest.raises(CheckpointError, match=message) as caught:
        read(mindspore.write(tmp_path / "a.ckpt", arrays), dtype="fp16")
    assert f"a.ckpt: backbone.blocks.0.{name} at offset" in caught.value.subject


@pytest.mark.parametrize(
    "name", ["blocks.0.layernorm1.gamma", "top_query_layer.output.mapping.bias"]
)
def test_a_missing_tensor_is_named(read, mindspore, tmp_path, name):
    arrays = mindspore.arrays()
    del arrays[f"backbone.{name}"]
    with pytest.raises(CheckpointError, match=f"no backbone.{name}"):
        read(mindspore.write(tmp_path / "a.ckpt", arrays))


@pytest.mark.parametrize("number", [999_999, 999_999_999, 10**17])
def test_a_gap_between_the_layers_does_not_make_a_smaller_model(number, read, mindspore, tmp_path):
    arrays = mindspore.arrays()
    renamed = {name.replace("blocks.0", f"blocks.{number}"): a for name, a in arrays.items()}
    message = f"nothing of block 0, though there is a block {number}"
    with pytest.raises(CheckpointError, match=message):
        read(mindspore.write(tmp_path / "a.ckpt", renamed))


def test_the_200b_network_is_refused_with_the_reason(read, mindspore, tmp_path):
    arrays = {"embedding_table": np.zeros((13, 8)), "blocks.0.layernorm1.gamma": np.zeros(8)}
    with pytest.raises(ConfigError, match=r"200B network.*orders the layers otherwise"):
        read(mindspore.write(tmp_path / "a.ckpt", arrays))


def test_a_folder_with_one_file_is_that_file(convert, mindspore, tmp_path):
    (tmp_path / "release").mkdir()
    mindspore.write(tmp_path / "release" / "PanguAlpha.ckpt", mindspore.arrays())
    convert(tmp_path / "release", tmp_path / "ours")
    assert len(contents(tmp_path / "ours")) == 37


def test_a_file_without_the_ending_is_known_by_its_first_bytes(mindspore, tmp_path):
    mindspore.write(tmp_path / "weights", mindspore.arrays())
    (tmp_path / "text").write_text("\n\n\n no weights")
    assert files.detect(tmp_path / "weights")
    assert not files.detect(tmp_path / "text")
    assert not files.detect(tmp_path / "absent")


def test_several_files_are_not_guessed_among(read, mindspore, tmp_path):
    for name in ("a.ckpt", "b.ckpt"):
        mindspore.write(tmp_path / name, mindspore.arrays())
    assert not files.detect(tmp_path)
    with pytest.raises(ConfigError, match=r"a\.ckpt, b\.ckpt: must be one MindSpore file"):
        read(tmp_path)


def test_the_stage_converts_a_file_and_then_skips(mindspore, tmp_path, monkeypatch):
    monkeypatch.setattr("pangu_core.log.set_up", lambda who: None)
    monkeypatch.setenv("PANGU_WORKSPACE", str(tmp_path))
    monkeypatch.setenv("PANGU_CONFIG", str(tmp_path / "config.yaml"))
    monkeypatch.setenv("PANGU_TERMINATION_PATH", str(tmp_path / "termination"))
    mindspore.write(tmp_path / "a.ckpt", mindspore.arrays(optimizer=True))
    config = ConvertConfig(
        run=mindspore.run, source="a.ckpt", target="ours", model=mindspore.model, optimizer=True
    )
    (tmp_path / "config.yaml").write_text(dump_yaml(config.dump()))
    for skipped in (False, True):
        CliRunner().invoke(main, [])
        message = json.loads((tmp_path / "termination").read_text())
        assert (message["code"], message["skipped"]) == (0, skipped)
    assert Checkpoint.open(tmp_path / "ours").manifest.has_optimizer


def test_the_command_takes_a_strategy_file_from_anywhere(mindspore, tmp_path, monkeypatch):
    monkeypatch.setattr("pangu_core.log.set_up", lambda who: None)
    (tmp_path / "rank_0").mkdir()
    mindspore.write(tmp_path / "rank_0" / "a.ckpt", mindspore.arrays())
    command = [tmp_path, tmp_path / "ours", "--heads", "2", "--strategy", tmp_path / "absent"]
    result = CliRunner().invoke(main, [str(word) for word in command])
    assert result.exit_code == CheckpointError.exit_code
    assert f"{tmp_path / 'absent'}: no such file" in result.output


@pytest.fixture(scope="module")
def golden(shared, mindspore, tmp_path_factory):
    """The original's own files: converted checkpoints by source, input ids, expected logits."""
    folder, target = shared / "golden" / "mindspore_tiny", tmp_path_factory.mktemp("golden")
    heads = json.loads((folder / "config.json").read_text())["heads"]
    config = ConvertConfig(run=mindspore.run, source="source", target="target")
    for source in ("model.ckpt", "npy"):
        formats.convert(folder / source, target / source, config, num_heads=heads)
    ids = torch.from_numpy(np.load(folder / "input_ids.npy").astype(np.int64))
    logits = {d: torch.from_numpy(np.load(folder / f"logits_{d}.npy")) for d in ("fp32", "fp16")}
    return target, ids, logits


def farthest(model, ids, expected):
    return (model(ids).float() - expected.float()).abs().max().item()


@pytest.mark.parametrize("source", ["model.ckpt", "npy"])
@pytest.mark.parametrize(
    ("dtype", "short", "bound"), [("float32", "fp32", 5e-5), ("float16", "fp16", 5e-3)]
)
def test_the_logits_are_the_originals(golden, source, dtype, short, bound):
    folder, ids, logits = golden
    model = pangu_core.load_model(folder / source, dtype=dtype)
    assert farthest(model, ids, logits[short]) < bound


def test_both_sources_are_the_same_bits(golden):
    folder = golden[0]
    ckpt, npy = contents(folder / "model.ckpt"), contents(folder / "npy")
    assert all(torch.equal(ckpt[name], npy[name]) for name in ckpt | npy)


def test_erf_gelu_would_not_be_the_originals(golden, shared, mindspore, tmp_path):
    sizes = Checkpoint.open(golden[0] / "model.ckpt").manifest.model
    model = ModelConfig(**{**sizes.model_dump(), "activation": "gelu_erf"})
    config = ConvertConfig(run=mindspore.run, source="source", target="target", model=model)
    formats.convert(shared / "golden" / "mindspore_tiny" / "model.ckpt", tmp_path / "erf", config)
    found = farthest(pangu_core.load_model(tmp_path / "erf"), golden[1], golden[2]["fp32"])
    assert 5e-4 < found < 2e-3
