"""Token files against the documented bytes, as round trips, and damaged in every place."""

import hashlib
import pickle
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pangu_core.data import token_files
from pangu_core.data.token_files import TokenFile, TokenFileWriter, concatenate, sibling
from pangu_core.errors import DataError

# Two documents of one item each: [5, 600, 9] and [7, 9].
BIN = bytes.fromhex("0500 5802 0900 0700 0900")
IDX = (
    b"MMIDIDX\x00\x00"
    + bytes.fromhex("0100000000000000 08 0200000000000000 0300000000000000")
    + bytes.fromhex("03000000 02000000")
    + bytes.fromhex("0000000000000000 0600000000000000")
    + bytes.fromhex("0000000000000000 0100000000000000 0200000000000000")
)
ITEMS = st.lists(st.integers(0, 39_999), max_size=6)
DOCUMENTS = st.lists(st.lists(ITEMS, min_size=1, max_size=3), max_size=5)


def write(prefix: Path, documents: list[list[list[int]]], vocab_size: int = 40_000) -> TokenFile:
    with TokenFileWriter(prefix, vocab_size=vocab_size) as writer:
        for document in documents:
            for item in document:
                writer.add(item)
            writer.end_document()
    return TokenFile.open(prefix)


def put(prefix: Path, index: bytes, tokens: bytes) -> Path:
    sibling(prefix, ".idx").write_bytes(index)
    sibling(prefix, ".bin").write_bytes(tokens)
    return prefix


def test_the_bytes_are_the_documented_ones(tmp_path: Path) -> None:
    write(tmp_path / "a.b", [[[5, 600, 9]], [[7, 9]]])
    assert (tmp_path / "a.b.bin").read_bytes() == BIN
    assert (tmp_path / "a.b.idx").read_bytes() == IDX
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.b.bin", "a.b.idx"]


@settings(deadline=None, max_examples=25)
@given(documents=DOCUMENTS)
def test_what_is_written_is_read_back(
    documents: list[list[list[int]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = write(tmp_path_factory.mktemp("round") / "t", documents)
    items = [item for document in documents for item in document]
    flat = [token for item in items for token in item]
    assert file.tokens(0, file.num_tokens).tolist() == flat
    assert file.sizes.tolist() == [len(item) for item in items]
    assert np.diff(file.documents).tolist() == [len(document) for document in documents]
    starts = [file.item_start(item) for item in range(file.num_items + 1)]
    assert starts == np.cumsum([0, *file.sizes]).tolist()


def test_the_fingerprint_is_the_datas_and_not_the_places(tmp_path: Path) -> None:
    first = write(tmp_path / "a", [[[5, 600, 9]], [[7, 9]]])
    again = write(tmp_path / "b", [[[5, 600, 9]], [[7, 9]]])
    expected = hashlib.sha256(IDX + bytes.fromhex("0a00000000000000")).hexdigest()
    assert first.fingerprint == again.fingerprint == expected
    other = write(tmp_path / "c", [[[5, 600, 9]], [[7, 7, 9]]])
    assert other.fingerprint != expected


@pytest.mark.parametrize(("vocab_size", "code", "width"), [(65_499, 8, 2), (65_500, 4, 4)])
def test_the_vocabulary_decides_the_width(
    vocab_size: int, code: int, width: int, tmp_path: Path
) -> None:
    write(tmp_path / "t", [[[1, 2, 3]]], vocab_size)
    assert (tmp_path / "t.idx").read_bytes()[17] == code
    assert (tmp_path / "t.bin").stat().st_size == 3 * width


@pytest.mark.parametrize(
    ("code", "dtype"),
    [(1, "u1"), (2, "i1"), (3, "<i2"), (4, "<i4"), (5, "<i8"), (6, "<f8"), (7, "<f8"), (8, "<u2")],
)
def test_every_documented_dtype_is_read(code: int, dtype: str, tmp_path: Path) -> None:
    tokens = np.array([5, 100, 9], dtype)
    index = struct.pack("<9sQBQQiqqq", b"MMIDIDX\x00\x00", 1, code, 1, 2, 3, 0, 0, 1)
    file = TokenFile.open(put(tmp_path / "t", index, tokens.tobytes()))
    assert file.tokens(0, 3).tolist() == [5, 100, 9]


@pytest.mark.parametrize(
    ("offset", "change", "message"),
    [
        (0, b"T", "at byte 0.*must begin with"),
        (9, b"\x02", "version 2 at byte 9"),
        (17, b"\x09", "dtype code 9 at byte 17"),
        (18, b"\x03", "ends at byte 82.*must have 94 bytes"),
        (38, b"\xff\xff\xff\xff", "size -1 at byte 38"),
        (50, b"\x07", "pointer 7 at byte 50"),
        (38, b"\x03", r"\.bin: ends at byte 10: must have the 12 bytes"),
        (58, b"\x01", "byte 58: must have document bounds that start at 0"),
        (66, b"\x03", "byte 74: must have document bounds that never fall"),
        (74, b"\x01", "1 at byte 74: must have a last document bound of 2"),
    ],
)
@pytest.mark.parametrize("items_per_block", [1, 2, 1 << 20])
def test_a_damaged_index_is_named_with_its_offset(
    offset: int,
    change: bytes,
    message: str,
    items_per_block: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(token_files, "ITEMS_PER_BLOCK", items_per_block)
    assert TokenFile.open(put(tmp_path / "t", IDX, BIN)).num_items == 2
    damaged = IDX[:offset] + change + IDX[offset + len(change) :]
    with pytest.raises(DataError, match=message):
        TokenFile.open(put(tmp_path / "t", damaged, BIN))


@pytest.mark.parametrize("length", [0, 33, 34, len(IDX) - 1])
def test_a_truncated_index_is_refused(length: int, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"(at byte )?{length}( bytes)?: must"):
        TokenFile.open(put(tmp_path / "t", IDX[:length], BIN))


def test_truncated_tokens_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\.bin: ends at byte 9: must have the 10 bytes"):
        TokenFile.open(put(tmp_path / "t", IDX, BIN[:-1]))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"t\.idx: no such file"):
        TokenFile.open(tmp_path / "t")


def test_nothing_is_seen_before_the_end_or_after_an_error(tmp_path: Path) -> None:
    with suppress(ZeroDivisionError), TokenFileWriter(tmp_path / "t", vocab_size=9) as writer:
        writer.add([1, 2])
        assert not (tmp_path / "t.idx").exists()
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_the_mask_goes_along_and_goes_away(tmp_path: Path) -> None:
    with TokenFileWriter(tmp_path / "t", vocab_size=40_000, with_mask=True) as writer:
        writer.add([5, 6, 9], [0, 1, 1])
        writer.end_document()
    assert TokenFile.open(tmp_path / "t").mask(1, 3).tolist() == [1, 1]
    assert TokenFile.open(tmp_path / "t").mask(0, 1).tolist() == [0]
    assert write(tmp_path / "t", [[[5, 6, 9]]]).mask(0, 3).tolist() == [1, 1, 1]


def test_a_mask_of_another_length_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.mask.bin").write_bytes(b"\x01")
    with pytest.raises(DataError, match=r"t\.mask\.bin: 1 bytes: must have 5 bytes"):
        TokenFile.open(put(tmp_path / "t", IDX, BIN))


@settings(deadline=None, max_examples=25)
@given(parts=st.lists(DOCUMENTS, min_size=1, max_size=4))
def test_joined_parts_are_the_file_written_at_once(
    parts: list[list[list[list[int]]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("join")
    files = [write(folder / f"part{index}", part) for index, part in enumerate(parts)]
    concatenate(files, folder / "joined", staging=folder)
    write(folder / "once", [document for part in parts for document in part])
    for suffix in (".bin", ".idx"):
        assert (
            sibling(folder / "joined", suffix).read_bytes()
            == sibling(folder / "once", suffix).read_bytes()
        )


def test_joined_parts_keep_their_masks(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with TokenFileWriter(tmp_path / name, vocab_size=40_000, with_mask=True) as writer:
            writer.add([5, 9], [0, 1])
            writer.end_document()
    files = [TokenFile.open(tmp_path / name) for name in ("a", "b")]
    concatenate(files, tmp_path / "joined", staging=tmp_path)
    assert TokenFile.open(tmp_path / "joined").mask(0, 4).tolist() == [0, 1, 0, 1]


def test_an_open_file_pickles_small_and_reads_on(tmp_path: Path) -> None:
    file = write(tmp_path / "t", [[list(range(10_000))]])
    assert file.tokens(9_998, 10_000).tolist() == [9_998, 9_999]
    pickled = pickle.dumps(file)
    assert len(pickled) < 1_000
    assert pickle.loads(pickled).tokens(0, 3).tolist() == [0, 1, 2]
