"""Hugging Face folders read: our own bit for bit, and those of the earlier ports."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from pangu_core.checkpoint.formats.form import Request, Weights
from pangu_core.checkpoint.formats.huggingface import folder as huggingface
from pangu_core.checkpoint.formats.huggingface.names import name_of
from pangu_core.checkpoint.formats.huggingface.writing import write_folder
from pangu_core.checkpoint.manifest import MODEL, MOMENTS, Header, key_of
from pangu_core.checkpoint.reader import Checkpoint, silent
from pangu_core.checkpoint.stream import Incoming, Target, write_stream
from pangu_core.config.model import ModelConfig
from pangu_core.config.stages import ConvertConfig, RunIdentity
from pangu_core.entry import convert, formats
from pangu_core.errors import CheckpointError, ConfigError
from pangu_core.layout import parameter_shapes

RUN = RunIdentity(name="hf", uid="hf")
NETWORK = ModelConfig(num_layers=3, hidden_size=8, num_heads=4, vocab_size=13, sequence_length=5)
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def weights_of(dtype="fp32", groups=(MODEL,), **model):
    network = NETWORK.model_copy(update=model)
    draw, tensors = torch.Generator().manual_seed(3), {}
    for group in groups:
        for name, shape in parameter_shapes(network).items():
            value = torch.randn(shape, generator=draw).to(DTYPES[dtype])
            tensors[key_of(group, name)] = Incoming(shape, dtype, lambda value=value: value)
    header = Header(model=network, run=RUN, dtype=dtype, samples=21)
    return Weights(header=header, tensors=tensors, step=7)


def read(source, **request):
    return huggingface.read(source, Request(run=RUN, **request))


def write(weights, target, **more):
    return write_folder(weights, target, replace_old=False, report=silent, **more)


def same(found, wanted):
    return found.tensors.keys() == wanted.tensors.keys() and all(
        torch.equal(found.tensors[key].read(), tensor.read())
        for key, tensor in wanted.tensors.items()
    )


def earlier(weights, rows=None):
    """Name -> tensor as the first ports saved them: masks, a head, padding rows."""
    network = weights.header.model
    values = {
        name_of(key.partition("/")[2], network.num_layers): tensor.read()
        for key, tensor in weights.tensors.items()
    }
    for layer in range(network.num_layers):
        mask = torch.ones(1, 1, 5, 5).tril().to(torch.uint8)
        values[f"transformer.h.{layer}.attn.bias"] = mask
        values[f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    words = values["transformer.wte.weight"]
    if rows is not None:
        padding = torch.full((rows - len(words), words.shape[1]), 3.0, dtype=words.dtype)
        words = torch.cat([words, padding])
    return {**values, "transformer.wte.weight": words, "lm_head.weight": words.clone()}


def write_earlier(target, values, *, safe=False, **more):
    target.mkdir()
    described = {
        "model_type": "gpt_pangu",
        "vocab_size": len(values["transformer.wte.weight"]),
        "max_position_embeddings": 5,
        "hidden_size": 8,
        "num_layers": 3,
        "num_heads": 4,
        "intermediate_size": None,
        "activation_function": "gelu",
        **more,
    }
    target.joinpath("config.json").write_text(json.dumps(described))
    if safe:
        save_file(values, target / "model.safetensors")
    else:
        torch.save(values, target / "pytorch_model.bin")
    return target


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shard_bytes", [10**9, 500])
def test_our_folders_come_back_bit_for_bit(tmp_path, dtype, shard_bytes):
    weights = weights_of(dtype, activation="gelu_erf", layer_norm_epsilon=1e-6, init_std=0.1)
    write(weights, tmp_path / "hf", shard_bytes=shard_bytes)
    found = read(tmp_path / "hf")
    assert same(found, weights)
    assert (found.header, found.step) == (weights.header, 7)


@pytest.mark.parametrize("activation", ["gelu_tanh", "gelu_erf", "fast_gelu"])
def test_our_folders_keep_the_activation_whatever_is_configured(tmp_path, activation):
    write(weights_of(activation=activation), tmp_path / "hf")
    assert read(tmp_path / "hf", model=NETWORK).header.model.activation == activation


def test_the_result_has_a_stable_hash(tmp_path):
    hashes = [write(weights_of(), tmp_path / name) for name in "ab"]
    assert hashes[0] == hashes[1] != write(weights_of("fp16"), tmp_path / "c")


@pytest.mark.parametrize("safe", [False, True])
def test_a_folder_of_an_earlier_port_is_read(tmp_path, safe, caplog):
    weights = weights_of(vocab_size=40_000)
    caplog.set_level("INFO")
    source = write_earlier(tmp_path / "hfi", earlier(weights, rows=40_064), safe=safe)
    assert huggingface.detect(source)
    found = read(source)
    assert same(found, weights)
    assert found.header.model == weights.header.model
    assert "taken as gelu_tanh unless --activation says otherwise" in caplog.text


def test_the_early_name_and_the_missing_prefix_are_known(tmp_path):
    weights = weights_of()
    values = {
        name.replace("attn.c_proj", "attn.out_proj").removeprefix("transformer."): value
        for name, value in earlier(weights).items()
    }
    values["transformer.wte.weight"] = values.pop("wte.weight")
    found = read(write_earlier(tmp_path / "early", values, model_type="pangu"))
    assert same(found, weights)


def test_a_head_of_its_own_is_refused_when_its_turn_comes(tmp_path):
    values = earlier(weights_of())
    values["lm_head.weight"][4, 2] += 1
    found = read(write_earlier(tmp_path / "hfi", values))
    with pytest.raises(CheckpointError, match=r"lm_head\.weight: other numbers: must equal the wo"):
        found.tensors["model/word_embedding.weight"].read()


def test_configured_sizes_must_agree(tmp_path):
    source = write_earlier(tmp_path / "hfi", earlier(weights_of()))
    chosen = NETWORK.model_copy(update={"activation": "gelu_erf"})
    assert read(source, model=chosen).header.model.activation == "gelu_erf"
    with pytest.raises(ConfigError, match="numHeads: 4: must equal the configured 2"):
        read(source, model=NETWORK.model_copy(update={"num_heads": 2}))
    with pytest.raises(CheckpointError, match="rows of the word table: 13: must be at least 99"):
        read(source, model=NETWORK.model_copy(update={"vocab_size": 99}))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"num_heads": 3}, r"num_heads: 3: must divide hidden_size \(8\)"),
        ({"num_layers": "3"}, "config.json: num_layers: '3': input should be a valid int"),
        ({"intermediate_size": 99}, "intermediate_size: 99: must be four times hidden_size"),
        ({"activation_function": "relu"}, "activation: relu: must be one of gelu_pytorch_tanh"),
        ({"num_layers": 4}, "no transformer.h.3.ln_1.weight: must hold every tensor"),
        ({"num_layers": 2**24 - 1}, r"16777215 layers, \d+ tensors: must hold every layer"),
        ({"num_layers": 2}, r"transformer\.h\.2\.\S+: an unknown tensor: must be a tensor of"),
        ({"max_position_embeddings": 6}, r"wpe\.weight: shape \(5, 8\): must have shape \(6, 8\)"),
    ],
)
def test_a_wrong_description_is_refused_by_name(tmp_path, more, message):
    source = write_earlier(tmp_path / "hfi", earlier(weights_of()), **more)
    with pytest.raises(CheckpointError, match=message):
        read(source)


def test_files_that_an_index_names_must_be_there_and_in_the_folder(tmp_path):
    write(weights_of(), tmp_path / "hf", shard_bytes=500)
    [first, *_] = sorted(tmp_path.glob("hf/model-*"))
    first.unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        read(tmp_path / "hf")
    index = tmp_path / "hf/model.safetensors.index.json"
    index.write_text('{"weight_map": {"transformer.wte.weight": "../secret"}}')
    with pytest.raises(CheckpointError, match=r"\.\./secret.*must name files of this folder"):
        read(tmp_path / "hf")
    index.unlink()
    with pytest.raises(CheckpointError, match="no weights: must hold model"):
        read(tmp_path / "hf")


def test_moments_are_neither_written_nor_read(tmp_path):
    with pytest.raises(ConfigError, match="holds weights only"):
        write(weights_of(groups=(MODEL, *MOMENTS)), tmp_path / "hf")
    write(weights_of(), tmp_path / "hf")
    with pytest.raises(ConfigError, match="holds weights only"):
        read(tmp_path / "hf", optimizer=True)


def test_a_result_is_replaced_on_request_and_nothing_else_ever_is(tmp_path):
    write(weights_of(), tmp_path / "hf")
    with pytest.raises(ConfigError, match="must not exist yet"):
        write(weights_of(), tmp_path / "hf")
    write_folder(weights_of("fp16"), tmp_path / "hf", replace_old=True, report=silent)
    assert read(tmp_path / "hf").header.dtype == "fp16"
    tmp_path.joinpath("mine").mkdir()
    with pytest.raises(ConfigError, match="must not exist yet"):
        write_folder(weights_of(), tmp_path / "mine", replace_old=True, report=silent)


def test_what_is_no_folder_of_this_kind_is_not_taken_for_one(tmp_path):
    assert not huggingface.detect(tmp_path)
    for text in ("{", "[]", '{"model_type": "gpt2"}'):
        tmp_path.joinpath("config.json").write_text(text)
        assert not huggingface.detect(tmp_path)


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_the_command_goes_there_and_back(tmp_path, dtype):
    weights = weights_of(dtype)
    vocabulary = tmp_path / "any.model"
    vocabulary.write_bytes(b"pieces")
    write_stream(Target(tmp_path / "ours", weights.header, 7, vocabulary), weights.tensors)
    for source, target, *flags in (
        ("ours", "hf", "--to", "huggingface"),
        ("hf", "back", "--activation", "fast_gelu"),
    ):
        arguments = [str(tmp_path / source), str(tmp_path / target), *flags]
        result = CliRunner().invoke(convert.main, arguments)
        assert result.exit_code == 0, result.output
    back = Checkpoint.open(tmp_path / "back")
    assert back.manifest.model == NETWORK.model_copy(update={"activation": "fast_gelu"})
    assert (back.manifest.step, back.manifest.samples) == (7, 21)
    assert back.vocabulary().read_bytes() == b"pieces"
    first = Checkpoint.open(tmp_path / "ours").manifest.slices
    digests = [
        {stored.key: stored.sha256 for stored in each} for each in (first, back.manifest.slices)
    ]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_tour_of_all_formats_changes_no_bit(tmp_path, mindspore, dtype):
    mindspore.write(tmp_path / "0.ckpt", mindspore.arrays(NETWORK, dtype))
    tour = ["pangu", "megatron", "pangu", "huggingface", "pangu", "mindspore"]
    for number, to_format in enumerate(tour, start=1):
        [source] = tmp_path.glob(f"{number - 1}*")
        target = tmp_path / f"{number}{'.ckpt' if to_format == 'mindspore' else ''}"
        config = ConvertConfig(run=RUN, source="", target="", to_format=to_format, model=NETWORK)
        formats.convert(source, target, config)
    assert (tmp_path / "6.ckpt").read_bytes() == (tmp_path / "0.ckpt").read_bytes()
    digests = [
        {stored.key: stored.sha256 for stored in Checkpoint.open(tmp_path / name).manifest.slices}
        for name in "135"
    ]
    assert digests[0] == digests[1] == digests[2]
