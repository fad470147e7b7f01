"""Copies of the state in host memory: taken once, and not at all where there is no room."""

from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pangu_core.checkpoint import staging
from pangu_core.checkpoint.manifest import Layout
from pangu_core.checkpoint.staging import Staging
from pangu_core.checkpoint.writer import Piece
from pangu_core.memory import Room

GIB = 2**30
AMPLE = Room(GIB, GIB)


def staging_with(room, num_ranks=1):
    return Staging(num_ranks=num_ranks, find_room=lambda: room)


def addresses(staged):
    return [piece.tensor.data_ptr() for piece in staged.pieces]


def test_a_copy_is_equal_and_lives_on_its_own(small):
    pieces = small.pieces(small.tensors(), Layout(2, 3), 1, 2)
    originals = [piece.tensor.clone() for piece in pieces]
    copies = staging_with(AMPLE).copy(pieces)
    copies.wait()
    for piece in pieces:
        piece.tensor.zero_()
    assert [(p.key, p.shape, p.part) for p in copies.pieces] == [
        (p.key, p.shape, p.part) for p in pieces
    ]
    assert all(torch.equal(p.tensor, o) for p, o in zip(copies.pieces, originals, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int64])
def test_any_dtype_lies_where_it_may_be_viewed(dtype):
    odd = Piece("a", (3,), ((0, 3),), torch.ones(3, dtype=torch.bfloat16))
    other = Piece("b", (2, 2), ((0, 2), (0, 2)), torch.ones(2, 2, dtype=dtype))
    copies = staging_with(AMPLE).copy([odd, other]).pieces
    assert copies[1].tensor.dtype == dtype
    assert copies[1].tensor.data_ptr() % staging.ALIGNMENT == 0


def test_the_memory_is_taken_once(small):
    pieces = small.pieces(small.tensors(), Layout())
    host = staging_with(AMPLE)
    assert addresses(host.copy(pieces)) == addresses(host.copy(pieces))


def test_a_machine_without_room_is_named_once(small, caplog):
    pieces = small.pieces(small.tensors(), Layout())
    host = staging_with(Room(available=50_000, total=GIB))
    assert host.copy(pieces) is None
    assert host.copy(pieces) is None
    assert len(caplog.records) == 1
    for part in ("1 x ", "53,687,091 to be left free", "50,000 bytes", "asynchronous: false"):
        assert part in caplog.text


def test_all_ranks_of_a_machine_must_fit(small):
    pieces = small.pieces(small.tensors(), Layout())
    room = Room(available=200_000, total=1_000_000)
    assert staging_with(room, num_ranks=1).copy(pieces) is not None
    assert staging_with(room, num_ranks=8).copy(pieces) is None


def test_the_launcher_says_how_many_ranks_there_are(small, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    host = Staging(find_room=lambda: Room(200_000, 1_000_000))
    assert host.copy(small.pieces(small.tensors(), Layout())) is None


def test_memory_that_cannot_be_taken_is_no_room(small, monkeypatch, caplog):
    def refuse(size, *, pinned):
        raise RuntimeError("CUDA error: out of memory\nmore lines")

    monkeypatch.setattr(staging, "_allocate", refuse)
    assert staging_with(AMPLE).copy(small.pieces(small.tensors(), Layout())) is None
    assert "could not be taken: CUDA error: out of memory; training waits" in caplog.text


@given(st.lists(st.integers(0, 300), max_size=30))
def test_pieces_are_packed_without_overlap_into_few_blocks(sizes):
    with patch.object(staging, "BLOCK_BYTES", 256):
        places, blocks = staging._pack(sizes)
    taken = [range(p.start, p.start + n) for p, n in zip(places, sizes, strict=True)]
    for number, (place, bytes_of) in enumerate(zip(places, taken, strict=True)):
        assert place.start % staging.ALIGNMENT == 0
        assert bytes_of.stop <= blocks[place.block]
        for other, others in zip(places[:number], taken[:number], strict=True):
            apart = bytes_of.start >= others.stop or others.start >= bytes_of.stop
            assert other.block != place.block or apart
    small = [block for block in blocks if block <= 256]
    assert sum(block <= 128 for block in small) <= 1  # two half-empty ones would be one


@pytest.mark.parametrize(
    ("size", "taken"), [(0, 1), (1, 1), (3, 4), (2**30, 2**30), (2**30 + 1, 2**31)]
)
def test_pinned_memory_is_reckoned_in_powers_of_two(size, taken):
    assert staging._rounded(size) == taken


def test_a_rank_that_stores_nothing_has_an_empty_copy():
    assert staging_with(AMPLE).copy([]).pieces == []
