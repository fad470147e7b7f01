"""The single MindSpore file: what the protobuf library writes is read, and damage is named."""

import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pangu_core.checkpoint.formats.mindspore import ckpt
from pangu_core.errors import CheckpointError

SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.ckpt"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """A file that hypothesis writes again and again."""
    return tmp_path_factory.mktemp("scratch") / "model.ckpt"


def refused(path, data):
    """The message with which a file of these bytes is refused."""
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        ckpt.index(path)
    assert caught.value.subject == str(path)
    return str(caught.value)


@settings(max_examples=60, deadline=None)
@given(shapes=st.dictionaries(st.text(min_size=1, max_size=9), SHAPES, min_size=1, max_size=5))
def test_the_protobuf_librarys_files_are_read(scratch, mindspore, shapes):
    arrays = {
        name: np.random.default_rng(0).standard_normal(shape, np.float32)
        for name, shape in shapes.items()
    }
    places = ckpt.index(mindspore.write(scratch, arrays))
    assert list(places) == list(arrays)
    for name, array in arrays.items():
        assert (places[name].shape, places[name].dtype) == (array.shape, "fp32")
        assert np.array_equal(ckpt.read(scratch, places[name]).numpy(), array)


@settings(max_examples=60, deadline=None)
@given(
    shape=SHAPES, dtype=st.sampled_from(["fp32", "fp16", "bf16", "fp64"]), cut=st.integers(1, 99)
)
def test_what_we_write_the_protobuf_library_reads(scratch, proto, shape, dtype, cut):
    tensor = torch.randn(shape, dtype=torch.float64).to(ckpt.DTYPES[dtype].torch)
    with pytest.MonkeyPatch.context() as patch, scratch.open("wb") as file:
        patch.setattr(ckpt, "SLICE_BYTES", cut)
        ckpt.write_tensor(file, "backbone.x", tensor, dtype)
    values = proto.Checkpoint.FromString(scratch.read_bytes()).value
    assert all(list(value.tensor.dims) == (list(shape) or [0]) for value in values)
    content = b"".join(value.tensor.tensor_content for value in values)
    assert content == tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
    [place] = ckpt.index(scratch).values()
    assert (place.shape, place.dtype) == (shape, dtype)
    assert torch.equal(ckpt.read(scratch, place), tensor)


def test_slices_of_one_tensor_are_joined(path, mindspore):
    array = np.arange(24, dtype=np.float16).reshape(6, 4)
    parts = [
        mindspore.message("a", part, dims=(6, 4)) for part in (array[:1], array[1:5], array[5:])
    ]
    path.write_bytes(b"".join(parts) + mindspore.message("b", array))
    places = ckpt.index(path)
    assert [len(places[name].extents) for name in "ab"] == [3, 1]
    assert np.array_equal(ckpt.read(path, places["a"]).numpy(), array)


def test_a_file_of_five_gigabytes_is_indexed_by_its_heads(path):
    rows = 1 << 30
    with path.open("wb") as file:  # sparse: takes no space
        for name in ("a", "b"):
            file.write(ckpt.value_head(name, (rows,), "Float16", 2 * rows))
            file.seek(2 * rows, 1)
        ckpt.write_tensor(file, "c", torch.arange(3.0), "fp32")
    places = ckpt.index(path)
    assert [place.num_bytes for place in places.values()] == [2 * rows, 2 * rows, 12]
    assert torch.equal(ckpt.read(path, places["c"]), torch.arange(3.0))


def test_scalars_integers_and_texts_do_no_harm(path, mindspore):
    text = np.frombuffer(b"2021", np.uint8)
    path.write_bytes(
        mindspore.message("global_step", np.array(7, np.int32))
        + mindspore.message("loss_scale", np.array(1024, np.float32))
        + mindspore.message("date", text, dims=(0,), word="str")
    )
    places = ckpt.index(path)
    assert [(place.shape, place.dtype) for place in places.values()] == [
        ((), "Int32"),
        ((), "fp32"),
        ((), "str"),
    ]
    assert ckpt.read(path, places["loss_scale"]) == 1024


def test_brain_floats_keep_their_bits(path, mindspore):
    bits = np.array([0x3F80, 0xC000], np.uint16)
    path.write_bytes(mindspore.message("a", bits, word="BFloat16"))
    expected = torch.tensor([1.0, -2.0], dtype=torch.bfloat16)
    assert torch.equal(ckpt.read(path, ckpt.index(path)["a"]), expected)


def test_map_tensors_are_left_out(path, proto, mindspore):
    checkpoint = proto.Checkpoint()
    value = checkpoint.value.add(tag="cache")
    value.maptensor.tensor.add(dims=[2], tensor_type="int32", tensor_content=b"12345678")
    path.write_bytes(checkpoint.SerializeToString() + mindspore.message("a", np.zeros(2)))
    assert list(ckpt.index(path)) == ["a"]


def test_a_later_versions_checksum_is_verified(path, mindspore):
    data = mindspore.message("a", np.zeros(9, np.float32))
    sealed = data + b"crc_num" + zlib.crc32(data).to_bytes(10, "big")
    path.write_bytes(sealed)
    assert list(ckpt.index(path)) == ["a"]
    flipped = sealed.replace(bytes(36), bytes(35) + b"!")
    assert f"offset {len(data)}: a checksum that is not" in refused(path, flipped)


def test_a_name_that_comes_again_is_named(path, mindspore):
    first, second = (mindspore.message(name, np.zeros(2, np.float32)) for name in "ab")
    assert "a again" in refused(path, first + first)
    assert "a again" in refused(path, first + second + first)


@pytest.mark.parametrize(
    ("dims", "word", "message"),
    [
        ((3,), "Float32", r"a of shape \(3,\) has 8 bytes instead of 12"),
        ((1 << 62, 1 << 62), "Float32", "has 8 bytes instead of 850705917302"),
        ((1,), "Float32", "has 8 bytes instead of 4"),
        ((-2,), "Float32", r"dims \[-2\]"),
        ((1,) * 9, "Float64", "dims"),
        ((2,), "Float32" * 200, "a text of 1400 bytes"),
    ],
)
def test_a_tensor_that_cannot_be_is_named(path, mindspore, dims, word, message):
    data = mindspore.message("a", np.zeros(2, np.float32), dims=dims, word=word)
    seen = refused(path, data)
    assert "offset " in seen
    with pytest.raises(CheckpointError, match=message):
        ckpt.index(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "offset 0: an empty file"),
        (b"PK\x03\x04", "offset 0: a field of number 10"),
        (b"\x08\x01", "offset 0: field 1 of wire type 0"),
        (b"\x0b\x01", "offset 0: a field of wire type 3"),
        (b"\x02\x01", "offset 0: a field of number 0"),
        (b"\x0a\x00", "offset 0: a value without name or tensor"),
        (b"\x0a\x7f\x0a", "offset 0: a field of 127 bytes where 1 are left"),
        (b"\x0a" + b"\xff" * 9 + b"\x01", "offset 0: a field of 18446744073709551615 bytes"),
        (b"\x0a" + b"\xff" * 20, "offset 1: a number that does not end"),
        (b"\x0a\x06\x0a\x02\xff\xff\x12\x00", "offset 2: a text that is not UTF-8"),
        (b"\x0a\x82\x01" + b"\x20\x00" * 65, "offset 131: more than 64 fields"),
    ],
)
def test_what_is_no_checkpoint_is_refused_with_its_offset(path, data, message):
    assert message in refused(path, data)


@pytest.fixture(scope="module")
def whole(mindspore):
    """Four tensors' bytes, to be damaged."""
    arrays = list(mindspore.arrays().items())[:4]
    return b"".join(mindspore.message(name, array) for name, array in arrays)


@settings(max_examples=300, deadline=None)
@given(
    at=st.integers(0, 1_000), junk=st.binary(max_size=12), skip=st.sampled_from([0, 1, 5, 1_000])
)
def test_a_damaged_file_is_read_or_refused_and_nothing_else(scratch, whole, at, junk, skip):
    damaged = whole[:at] + junk + whole[at + skip :]
    scratch.write_bytes(damaged)
    try:
        places = ckpt.index(scratch)
    except CheckpointError as error:
        seen = str(error)
    else:
        seen = f"offset {max(place.extents[-1].offset for place in places.values())}"
        assert sum(place.num_bytes for place in places.values()) <= len(damaged)
    assert "offset" in seen


def test_a_file_that_shrinks_while_it_is_read_is_named(path, mindspore):
    mindspore.write(path, {"a": np.zeros(100, np.float32)})
    place = ckpt.index(path)["a"]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="offset 422: the end"):
        ckpt.read(path, place)
