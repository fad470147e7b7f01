"""The Megatron port's folders, in and out; Megatron-core's names."""

import argparse
import sys
from dataclasses import replace
from functools import partial
from types import ModuleType

import pytest
import torch
from click.testing import CliRunner

from pangu_core.checkpoint.formats import pangu
from pangu_core.checkpoint.formats.form import Request, Weights
from pangu_core.checkpoint.formats.megatron import core, folder, port
from pangu_core.checkpoint.formats.megatron.names import fuse, port_tensors, unfuse
from pangu_core.checkpoint.formats.megatron.writing import Cut
from pangu_core.checkpoint.manifest import MODEL, MOMENTS, Header, key_of
from pangu_core.checkpoint.reader import silent
from pangu_core.checkpoint.stream import Incoming
from pangu_core.config.model import PRESETS, ModelConfig
from pangu_core.config.stages import RunIdentity
from pangu_core.entry import convert
from pangu_core.errors import CheckpointError, ConfigError
from pangu_core.layout import cut_dim, parameter_shapes

RUN = RunIdentity(name="port", uid="port")
# Heads of size 2, so that the order of rows within a head counts; 13 rows divide by nothing.
NETWORK = ModelConfig(num_layers=3, hidden_size=8, num_heads=4, vocab_size=13, sequence_length=5)
DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


@pytest.fixture
def weights():
    """Make weights as any reader gives them."""

    def make(dtype="fp32", *, optimizer=False, step=7, **more):
        model, tensors = NETWORK.model_copy(update=more), {}
        draw = torch.Generator().manual_seed(4)
        for group in (MODEL, *MOMENTS) if optimizer else (MODEL,):
            kind = dtype if group == MODEL else "fp32"
            for name, shape in parameter_shapes(model).items():
                value = torch.randn(shape, generator=draw).to(DTYPES[kind])
                tensors[key_of(group, name)] = Incoming(shape, kind, lambda value=value: value)
        header = Header(model=model, run=RUN, dtype=dtype, samples=21)
        return Weights(header=header, tensors=tensors, step=step)

    return make


def write(form, what, target, **more):
    form.write(what, target, request=Request(run=RUN, **more), replace_old=False, report=silent)
    return target


def read(form, source, **more):
    return form.read(source, Request(run=RUN, **more))


def same(found, wanted):
    return found.tensors.keys() == wanted.tensors.keys() and all(
        torch.equal(found.tensors[key].read(), tensor.read())
        for key, tensor in wanted.tensors.items()
    )


def torch_content(source, rank=0):
    [path] = source.glob(f"*/mp_rank_{rank:02d}/model_optim_rng.pt")
    return torch.load(path, weights_only=False)


@pytest.mark.parametrize("form", [port, core])
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_come_back_bit_for_bit(form, dtype, weights, tmp_path):
    write(form, weights(dtype), tmp_path / "out")
    write(pangu, read(form, tmp_path / "out"), tmp_path / "ours")
    found = read(pangu, tmp_path / "ours")
    assert same(found, weights(dtype))
    assert (found.header.model, found.header.dtype) == (NETWORK, dtype)
    assert (found.step, found.header.samples) == (7, 21)


def test_the_optimizer_walks_from_1_to_2_to_4_to_1_ranks(weights, tmp_path):
    source = write(port, weights(optimizer=True), tmp_path / "0")
    for number, ranks in enumerate((2, 4, 1), start=1):
        walked = read(port, source, optimizer=True)
        source = write(port, walked, tmp_path / str(number), tensor_parallel=ranks)
        assert len(list(source.glob("iter_0000007/mp_rank_*"))) == ranks
    assert same(read(port, source, optimizer=True), weights(optimizer=True))


def test_half_weights_keep_their_masters(weights, tmp_path):
    tensors = {
        key: replace(tensor, dtype="fp16") if key.startswith(MODEL) else tensor
        for key, tensor in weights(optimizer=True).tensors.items()
    }
    write(port, replace(weights(), tensors=tensors), tmp_path / "out", tensor_parallel=2)
    assert read(port, tmp_path / "out").header.dtype == "fp16"
    assert same(read(port, tmp_path / "out", optimizer=True), weights(optimizer=True))


def test_the_names_are_those_of_the_port(weights, tmp_path):
    write(port, weights(), tmp_path / "out")
    model = torch_content(tmp_path / "out")["model"]["language_model"]
    assert list(model) == ["embedding", "topQueryEmbedding", "transformer"]
    names = list(model["transformer"])
    assert len(names) == 16 * 3 + 2
    assert names[:16] == [
        f"layers.0.{module}.{kind}"
        for module in (
            *("input_layernorm", "attention.query", "attention.key", "attention.value"),
            *("attention.dense", "post_attention_layernorm"),
            *("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
        )
        for kind in ("weight", "bias")
    ]
    assert names[32] == "topQueryLayer.input_layernorm.weight"
    assert names[-2:] == ["final_layernorm.weight", "final_layernorm.bias"]


@pytest.mark.parametrize(
    ("divisor", "ranks", "rows"), [(128, 1, 40064), (128, 2, 40192), (128, 8, 40960), (1, 8, 40000)]
)
def test_the_vocabulary_is_padded_as_the_port_pads_it(divisor, ranks, rows):
    stored = next(port_tensors(2))
    assert Cut(ranks, divisor).shape(stored, PRESETS["2.6B"])[0] == rows / ranks


def test_padding_rows_are_zeros_and_torch_reads_them(weights, tmp_path):
    write(port, weights(), tmp_path / "out", tensor_parallel=2, vocab_divisor=4)
    tables = [
        torch_content(tmp_path / "out", rank)["model"]["language_model"]["embedding"][
            "word_embeddings"
        ]["weight"]
        for rank in (0, 1)
    ]
    whole = weights().tensors["model/word_embedding.weight"].read()
    assert [len(table) for table in tables] == [8, 8]
    assert torch.equal(torch.cat(tables)[:13], whole)
    assert not torch.cat(tables)[13:].any()


class PortFile:
    """A training file as the port's own code saves it, one rank of ``ranks``."""

    def __init__(self, source, ranks=1, **args):
        self.source, self.ranks = source, ranks
        self.args = argparse.Namespace(
            num_layers=2, num_attention_heads=4, model_parallel_size=ranks, **args
        )

    def part(self, key, rank):
        value, dim = self.source.tensors[key].read(), cut_dim(key.partition("/")[2])
        if key.endswith("word_embedding.weight"):
            value = torch.cat([value, torch.randn(3, 8)])  # 16 rows
        return value if dim is None else value.chunk(self.ranks, dim)[rank].clone()

    def content(self, rank, scaler):
        names = [stored.parameters[0] for stored in port_tensors(3)]
        order = sorted(names, key=lambda name: self.part(f"model/{name}", 0).dim() < 2)
        masters = {name: self.part(f"model/{name}", rank) for name in order}
        matrices = [masters[name] for name in order if masters[name].dim() > 1]
        vectors = [masters[name] for name in order if masters[name].dim() == 1]
        ids = {name: id(masters[name]) for name in order}  # torch before 1.6
        state = {
            ids[name]: {group: self.part(f"{group}/{name}", rank) for group in MOMENTS}
            for name in reversed(order)
        }
        groups = [
            {"lr": 1e-4, "step": 9, "params": [ids[n] for n in order if masters[n].dim() > 1]},
            {"lr": 1e-4, "step": 9, "params": [ids[n] for n in order if masters[n].dim() == 1]},
        ]
        tree = {}
        for stored in port_tensors(3):
            node = tree
            for key in stored.paths[0][:-1]:
                node = node.setdefault(key, {})
            node[stored.paths[0][-1]] = masters[stored.parameters[0]].half()
        return {
            "args": self.args,
            "iteration": "iter_0007800",
            "model": tree,
            "optimizer": {
                "loss_scaler": scaler,
                "dynamic_loss_scale": True,
                "optimizer_state_dict": {"state": state, "param_groups": groups},
                "fp32_from_fp16": [matrices, vectors],
            },
            "torch_rng_state": torch.get_rng_state(),
        }

    def save(self, target, tracker="7800", **kind):
        name = tracker if tracker == "release" else f"iter_{int(tracker):07d}"
        for rank in range(self.ranks):
            path = target / name / f"mp_rank_{rank:02d}" / "model_optim_rng.pt"
            path.parent.mkdir(parents=True)
            scaler_class = sys.modules["megatron.fp16.loss_scaler"].DynamicLossScaler
            torch.save(self.content(rank, scaler_class()), path, **kind)
        (target / "latest_checkpointed_iteration.txt").write_text(tracker)
        return target


@pytest.fixture
def megatron(monkeypatch):
    """The module that the port pickles its loss scaler from, while files are made."""
    for name in ("megatron", "megatron.fp16", "megatron.fp16.loss_scaler"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    scaler = type("DynamicLossScaler", (), {"__module__": "megatron.fp16.loss_scaler"})
    sys.modules["megatron.fp16.loss_scaler"].DynamicLossScaler = scaler


@pytest.mark.parametrize("is_zip", [False, True], ids=["old", "zip"])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_a_training_file_of_the_port_gives_its_optimizer(
    is_zip, ranks, weights, megatron, tmp_path
):
    saved = PortFile(weights(optimizer=True), ranks)
    saved.save(tmp_path, _use_new_zipfile_serialization=is_zip)
    found = read(port, tmp_path, optimizer=True, model=NETWORK)
    assert same(found, weights(optimizer=True))
    assert (found.step, found.header.dtype) == (7800, "fp32")
    assert read(port, tmp_path, model=NETWORK).header.dtype == "fp16"


@pytest.mark.parametrize(
    ("args", "activation"),
    [
        ({}, "gelu_erf"),
        ({"bias_gelu_fusion": True}, "gelu_tanh"),
        ({"openai_gelu": True}, "gelu_tanh"),
    ],
)
def test_the_activation_is_what_the_file_was_tuned_with(
    args, activation, weights, megatron, tmp_path
):
    PortFile(weights(optimizer=True), **args).save(tmp_path)
    model = read(port, tmp_path).header.model
    assert (model.activation, model.num_heads, model.vocab_size) == (activation, 4, 16)


def test_a_release_without_arguments_has_the_tanh_gelu(weights, tmp_path):
    write(port, weights(step=0), tmp_path / "out")
    source = tmp_path / "release"
    content = torch_content(tmp_path / "out")
    (source / "release" / "mp_rank_00").mkdir(parents=True)
    path = source / "release" / "mp_rank_00" / "model_optim_rng.pt"
    torch.save({"model": content["model"], "iteration": 1000}, path)
    (source / "latest_checkpointed_iteration.txt").write_text("release\n")
    with pytest.raises(ConfigError, match="do not say how many attention heads"):
        read(port, source)
    found = read(port, source, num_heads=4)
    assert (found.header.model.activation, found.step) == ("gelu_tanh", 1000)
    assert found.header.model.vocab_size == 128
    assert same(read(port, source, model=NETWORK), weights())


def test_a_folder_without_a_tracker_file_is_refused(weights, tmp_path):
    write(port, weights(), tmp_path / "out")
    (tmp_path / "out" / "latest_checkpointed_iteration.txt").unlink()
    assert port.detect(tmp_path / "out")
    with pytest.raises(CheckpointError, match="no readable latest_checkpointed"):
        read(port, tmp_path / "out")


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (lambda out: (out / folder.TRACKER).write_text("newest"), "must be the number"),
        (lambda out: (out / folder.TRACKER).write_text("8"), "no mp_rank_00"),
        (lambda out: (out / "iter_0000007/mp_rank_00").rename(out / "gone"), "no mp_rank_00"),
        (lambda out: (out / "iter_0000007/mp_rank_01/model_optim_rng.pt").unlink(), "no such file"),
    ],
)
def test_an_incomplete_folder_is_named(break_it, complaint, weights, tmp_path):
    write(port, weights(), tmp_path / "out", tensor_parallel=2)
    break_it(tmp_path / "out")
    with pytest.raises(CheckpointError, match=complaint):
        read(port, tmp_path / "out")


def test_files_for_another_number_of_ranks_are_refused(weights, megatron, tmp_path):
    saved = PortFile(weights(optimizer=True), 2)
    saved.save(tmp_path)
    (tmp_path / "iter_0007800" / "mp_rank_01").rename(tmp_path / "gone")
    with pytest.raises(CheckpointError, match="model_parallel_size: 2: 1 mp_rank folders"):
        read(port, tmp_path)


def test_other_sizes_than_asked_for_are_refused(weights, tmp_path):
    write(port, weights(), tmp_path / "out")
    asked = NETWORK.model_copy(update={"hidden_size": 16})
    with pytest.raises(ConfigError, match="hiddenSize: 8: must be the configured 16"):
        read(port, tmp_path / "out", model=asked)


def test_no_optimizer_is_ever_made_up(weights, tmp_path):
    write(port, weights(), tmp_path / "out")
    with pytest.raises(CheckpointError, match="only a file of training"):
        read(port, tmp_path / "out", optimizer=True)


def test_megatron_core_has_each_heads_q_k_and_v_together(weights, tmp_path):
    write(core, weights(), tmp_path / "out", tensor_parallel=2)
    model = torch_content(tmp_path / "out", rank=1)["model"]
    found = model["decoder.layers.1.self_attention.linear_qkv.weight"]
    parts = [
        weights().tensors[f"model/layers.1.attention.{p}.weight"].read()
        for p in ("query", "key", "value")
    ]
    heads = [part[2 * head : 2 * head + 2] for head in (2, 3) for part in parts]
    assert torch.equal(found, torch.cat(heads))
    assert torch_content(tmp_path / "out")["checkpoint_version"] == 3.0
    assert "decoder.query_layer.mlp.linear_fc1.layer_norm_weight" in model


def test_megatron_cores_unfused_names_are_read_too(weights, tmp_path):
    write(core, weights(), tmp_path / "out")
    content = torch_content(tmp_path / "out")
    other = {
        "self_attention.linear_qkv.layer_norm_": "input_layernorm.",
        "mlp.linear_fc1.layer_norm_": "pre_mlp_layernorm.",
    }
    for old, new in other.items():
        content["model"] = {k.replace(old, new): v for k, v in content["model"].items()}
    [path] = (tmp_path / "out").rglob("*.pt")
    torch.save(content, path)
    assert same(read(core, tmp_path / "out"), weights())


def test_fusing_and_taking_apart_are_inverse():
    parts = [torch.randn(8, 3) for _ in range(3)]
    fused = fuse(parts, num_heads=4)
    assert all(torch.equal(unfuse(fused, i, 3, 4), part) for i, part in enumerate(parts))


@pytest.mark.parametrize(
    ("form", "more", "asked", "complaint"),
    [
        (port, {"activation": "fast_gelu"}, {}, "cannot compute it"),
        (port, {}, {"tensor_parallel": 3}, "must divide the model's 4 heads"),
        (core, {"optimizer": True}, {}, "written for the port alone"),
    ],
)
def test_what_the_format_cannot_hold_is_refused(form, more, asked, complaint, weights, tmp_path):
    with pytest.raises(ConfigError, match=complaint):
        write(form, weights(**more), tmp_path / "out", **asked)
    assert not (tmp_path / "out").exists()


def test_the_command_converts_there_and_back(weights, tmp_path, monkeypatch):
    monkeypatch.setattr("pangu_core.log.set_up", lambda who: None)
    call = partial(CliRunner().invoke, convert.main)
    write(pangu, weights(optimizer=True), tmp_path / "ours")
    there = ["--to", "megatron", "--tp", "2", "--vocab-divisor", "1", "--optimizer"]
    assert call([str(tmp_path / "ours"), str(tmp_path / "port"), *there]).exit_code == 0
    assert call([str(tmp_path / "port"), str(tmp_path / "again"), "--optimizer"]).exit_code == 0
    assert same(read(pangu, tmp_path / "again", optimizer=True), weights(optimizer=True))
