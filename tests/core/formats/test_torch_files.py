"""Files of torch.save read as data: what torch wrote, what a stranger wrote, what is damaged."""

import argparse
import collections
import os
import pickle
import random
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pangu_core.checkpoint.torch_files import pickling, unpickling
from pangu_core.checkpoint.torch_files.reading import TorchFile, tensor_of
from pangu_core.checkpoint.torch_files.values import Instance, Named, TensorRef
from pangu_core.checkpoint.torch_files.writing import TorchWriter, promise
from pangu_core.errors import CheckpointError

KINDS = {"old": False, "zip": True}
MODULE = collections.OrderedDict(
    weight=torch.nn.Parameter(torch.arange(12.0).reshape(3, 4)),
    turned=torch.arange(30).half().reshape(6, 5).t(),
    part=torch.arange(8).bfloat16()[2:5],
)


@pytest.fixture(params=KINDS)
def save(request, tmp_path):
    """Save with torch in each kind of file; returns the path."""

    def write(value, **more):
        path = tmp_path / "file.pt"
        torch.save(value, path, _use_new_zipfile_serialization=KINDS[request.param], **more)
        return path

    return write


def tensor(file, ref):
    return tensor_of(np.array(file.array(ref)), file.dtype(ref))


def test_tensors_of_any_stride_come_out_as_torch_saved_them(save):
    file = TorchFile(save({"model": MODULE}))
    for name, value in MODULE.items():
        assert torch.equal(tensor(file, file.content["model"][name]), value.detach())


def test_the_rest_of_a_training_file_is_plain_data(save):
    args = argparse.Namespace(num_layers=31, lr=1.5e-4, params_dtype=torch.half, load=None)
    states = {"random": random.getstate(), "numpy": np.random.get_state(), "it": "iter_0007800"}
    content = TorchFile(save({"args": args, "seed": 2**70, **states})).content
    assert content["args"] == Instance(
        "argparse Namespace", {**vars(args), "params_dtype": Named("torch float16")}
    )
    assert (content["seed"], content["it"]) == (2**70, "iter_0007800")
    assert content["random"] == states["random"]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_pickle_is_read(save, protocol):
    value = {"a": [1, -5, 2.5, True, None, "text", (1, 2, 3, 4)], "b": {}}
    assert TorchFile(save(value, pickle_protocol=protocol)).content == value


def test_torch_reads_what_is_written(tmp_path):
    refs = [promise("0", (4, 3), torch.half), promise("1", (2,), torch.float32)]
    value = {"model": {"a": refs[0]}, "b": [refs[1], 7, None, True, -0.5, ("x",), 2**40]}
    with TorchWriter(tmp_path / "file.pt", value, refs) as writer:
        writer.write(torch.ones(3, 3).half())
        writer.write(torch.tensor([1.0, 2.0]))
    found = torch.load(tmp_path / "file.pt", weights_only=True)
    assert found["model"]["a"].tolist() == [[1.0] * 3] * 3 + [[0.0] * 3]
    assert found["b"][0].tolist() == [1.0, 2.0]
    assert found["b"][1:] == [7, None, True, -0.5, ("x",), 2**40]


class Bomb:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


BOMBS = {
    "posix.system": Bomb(os.system, "touch ran"),
    "builtins.eval": Bomb(eval, "open('ran', 'w')"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_pickle_that_would_run_code_is_refused_by_name_and_never_runs(
    name, save, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    path = save({"model": BOMBS[name]})
    with pytest.raises(
        CheckpointError, match=f"it names {name.replace('builtins', '(__builtin__|builtins)')}"
    ):
        TorchFile(path)
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"\x80\x02cos\nsystem\n.", "it names os.system"),
        (b"\x80\x04\x8c\x05posix\x8c\x06system\x93.", "it names posix.system"),
        (b"\x80\x02ctorch\nfloat16\n)R.", "it calls torch.float16"),
        (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "an object of collections.OrderedDict"),
        (b"\x80\x02ios\nsystem\n.", "instruction INST"),
        (b"\x80\x02}r\xff\xff\xff\xff.", None),  # a memo of four thousand million places
        (b"\x80\x02X\xff\xff\xff\x7fabc.", "damaged pickle"),
        (b"\x80\x02\x8b" + struct.pack("<i", 17) + b"\x01" * 17 + b".", "an integer of 129 bits"),
        (b"\x80\x02})]\x86K\x01s.", "a tuple as a key"),
        (b"\x80\x02K\x01", "damaged pickle"),
        (b"\x80\x02.", "damaged pickle"),
        (b"(" * 2_000_000, "more than 1000000 instructions"),
    ],
)  # fmt: skip
def test_hostile_pickles_cost_little_and_are_refused(data, complaint):
    if complaint is None:
        assert unpickling.load(data, Path("f"))[0] == {}
        return
    with pytest.raises(CheckpointError, match=complaint):
        unpickling.load(data, Path("f"))


def test_a_key_that_takes_for_ever_to_hash_is_never_hashed():
    doubled = b"".join(b"q%c" % i + b"h%c" % i + b"\x86" for i in range(60))
    with pytest.raises(CheckpointError, match="a tuple as a key"):
        unpickling.load(b"\x80\x02})" + doubled + b"K\x01s.", Path("f"))


@pytest.mark.parametrize(
    "ref",
    [
        {"shape": (2**40, 3)},
        {"shape": (5, 3)},
        {"offset": 7},
        {"shape": (0, 3)},
    ],
)
def test_a_tensor_beyond_its_storage_is_refused(tmp_path, ref):
    whole = promise("0", (4, 3), torch.float32)
    wrong = TensorRef(**{**vars(whole), **ref})
    with TorchWriter(tmp_path / "file.pt", {"a": wrong}, [whole]) as writer:
        writer.write(torch.ones(4, 3))
    file = TorchFile(tmp_path / "file.pt")
    with pytest.raises(CheckpointError, match="offset"):
        file.array(file.content["a"])


def test_text_that_is_no_file_of_torch_is_refused(tmp_path):
    for content in (b"", b"weights", b"PK\x03\x04 and no more", pickling.dump({"a": 1})):
        (tmp_path / "file.pt").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"must be a file of torch.save"):
            TorchFile(tmp_path / "file.pt")


@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_files_are_read_or_refused(tmp_path, kind, data):
    path = tmp_path / f"whole-{kind}.pt"
    if not path.exists():
        torch.save({"model": MODULE, "it": 5}, path, _use_new_zipfile_serialization=KINDS[kind])
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(1, 8))] = data.draw(st.binary(max_size=9))
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        file = TorchFile(damaged)
        for ref in file.content["model"].values() if isinstance(file.content, dict) else ():
            file.array(ref)
    except (CheckpointError, KeyError, AttributeError):
        pass  # refused, or it holds other names


def test_the_writer_refuses_what_is_no_data():
    with pytest.raises(TypeError, match="object is no plain data"):
        pickling.dump(object())
    assert pickle.loads(pickling.dump({"a": [1, ("b", None)]})) == {"a": [1, ("b", None)]}
