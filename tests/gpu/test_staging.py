"""Copies of a GPU's state in pinned host memory, queued behind the work that is under way."""

import pytest
import torch

from pangu_core.checkpoint import staging
from pangu_core.checkpoint.staging import Staging
from pangu_core.checkpoint.writer import Piece
from pangu_core.memory import Room

pytestmark = pytest.mark.gpu
SIZE = 16 * 2**20  # elements: a copy takes a millisecond or more


def piece(tensor):
    return Piece("model/x", tuple(tensor.shape), ((0, len(tensor)),), tensor)


def test_values_that_change_right_after_the_copy_was_queued_do_not_leak():
    tensor = torch.zeros(SIZE, device="cuda")
    host = Staging(num_ranks=1)
    for step in range(1, 6):
        tensor.fill_(step)
        staged = host.copy([piece(tensor)])
        tensor.fill_(-1)
        staged.wait()
        assert torch.all(staged.pieces[0].tensor == step)


def test_the_memory_is_pinned_once():
    tensor = torch.ones(SIZE, device="cuda")
    host = Staging(num_ranks=1)
    first, second = (host.copy([piece(tensor)]).pieces[0].tensor for _ in range(2))
    assert first.is_pinned()
    assert first.data_ptr() == second.data_ptr()


def test_memory_that_cannot_be_pinned_leaves_the_gpu_usable(monkeypatch):
    allocate = staging._allocate
    monkeypatch.setattr(staging, "_allocate", lambda size, pinned: allocate(2**60, pinned=True))
    tensor = torch.ones(SIZE, device="cuda")
    assert Staging(num_ranks=1).copy([piece(tensor)]) is None
    assert float((tensor + 1).sum()) == 2 * SIZE


def test_a_machine_without_room_copies_nothing():
    host = Staging(num_ranks=1, find_room=lambda: Room(2**20, 2**30))
    assert host.copy([piece(torch.ones(SIZE, device="cuda"))]) is None
