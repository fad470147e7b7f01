"""Saving in the background: what is saved, when it is over, and how it fails."""

import errno
import os
import threading

import psutil
import pytest
import torch

from pangu_core.checkpoint import background, durable, saver, tensor_file
from pangu_core.checkpoint.manifest import Layout
from pangu_core.checkpoint.reader import Checkpoint
from pangu_core.checkpoint.saver import Request, Saver
from pangu_core.checkpoint.staging import Staging
from pangu_core.checkpoint.store import Store
from pangu_core.config.stages import RunIdentity
from pangu_core.errors import CheckpointError, WorkspaceError
from pangu_core.layout import whole
from pangu_core.memory import Room

ROOM = Room(2**30, 2**30)
NO_ROOM = Room(0, 2**30)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "checkpoints")


@pytest.fixture
def gate(monkeypatch):
    """Writers stop at it until it is opened."""
    opened, write = threading.Event(), tensor_file.TensorWriter.write

    def wait_and_write(writer, name, tensor):
        assert opened.wait(20)
        return write(writer, name, tensor)

    monkeypatch.setattr(tensor_file.TensorWriter, "write", wait_and_write)
    yield opened
    opened.set()


def staging(room=ROOM):
    return Staging(num_ranks=1, find_room=lambda: room)


def in_background(store, **more):
    return Saver(store, staging=staging(), **more)


def contents(folder):
    checkpoint = Checkpoint.open(folder)
    return {s.key: checkpoint.read(s.key, whole(s.shape)) for s in checkpoint.manifest.slices}


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def step_until_over(subject):
    """What a loop does at its step boundaries."""
    while True:
        if subject.is_idle and (finished := subject.advance()):
            return finished


def test_training_goes_on_while_a_shard_is_written(store, small, gate):
    subject = in_background(store)
    subject.begin(Request(10, small.header()), small.pieces(small.tensors(), Layout()))
    assert (subject.in_flight, subject.is_idle) == (True, False)
    assert not list(store.candidates())
    gate.set()
    finished = step_until_over(subject)
    assert finished.saved.folder.name == "step-00000010"
    assert finished.step == 10
    assert 0 < finished.stall_seconds < finished.seconds
    assert (subject.in_flight, subject.is_idle) == (False, True)


def test_values_that_change_right_after_begin_do_not_leak(store, small, gate):
    tensors = small.tensors()
    subject = in_background(store)
    subject.begin(Request(10, small.header()), small.pieces(tensors, Layout()))
    for tensor in tensors.values():
        tensor.zero_()
    gate.set()
    found = contents(subject.finish().saved.folder)
    assert all(torch.equal(found[key], tensor) for key, tensor in small.tensors().items())


def test_it_writes_the_same_bytes_as_a_save_that_waits(store, small, tmp_path):
    pieces = small.pieces(small.tensors(), Layout())
    subject = in_background(store)
    subject.begin(Request(10, small.header()), pieces)
    waited = Store(tmp_path / "other").save(10, pieces, small.header())
    assert files(subject.finish().saved.folder) == files(waited.folder)


@pytest.mark.parametrize("room", [ROOM, NO_ROOM, None])
def test_ranks_without_room_write_before_begin_returns(room, store, small):
    """The third rank has what the case says; the others have room."""
    layout = Layout(2, 2)

    def one(rank, gather):
        mine = (staging(room) if room else None) if rank == 2 else staging()
        subject = Saver(store, gather=gather, rank=rank, staging=mine)
        pieces = small.pieces(small.tensors(), layout, rank % 2, rank // 2)
        subject.begin(Request(10, small.header(layout)), pieces)
        for piece in pieces:
            piece.tensor.zero_()
        return subject.finish().saved.folder

    folder, *others = small.ranks(4, one)
    assert others == [folder] * 3
    found = contents(folder)
    assert all(torch.equal(found[key], tensor) for key, tensor in small.tensors().items())


@pytest.mark.parametrize("failing", [0, 1])
def test_a_writer_that_fails_on_one_rank_is_heard_on_all(failing, store, small, monkeypatch):
    store.save(10, small.pieces(small.tensors(), Layout()), small.header())
    write = saver.write_shard

    def fill_up(folder, rank, pieces, tally):
        if rank == failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "volume")
        return write(folder, rank, pieces, tally)

    monkeypatch.setattr(saver, "write_shard", fill_up)

    def one(rank, gather):
        subject = in_background(store, gather=gather, rank=rank)
        pieces = small.pieces(small.tensors(), Layout(2, 1), rank)
        subject.begin(Request(20, small.header(Layout(2, 1))), pieces)
        try:
            return subject.finish()
        finally:
            assert not subject.in_flight

    results = small.ranks(2, one)
    assert [type(result) for result in results] == [WorkspaceError, WorkspaceError]
    assert "No space left on device" in str(results[0])
    assert [path.name for path in store.candidates()] == ["step-00000010"]
    assert not list(store.root.glob("tmp-*"))


def test_a_commit_that_fails_is_heard_on_all(store, small, monkeypatch):
    def fill_up(path, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def one(rank, gather):
        subject = in_background(store, gather=gather, rank=rank)
        pieces = small.pieces(small.tensors(), Layout(2, 1), rank)
        subject.begin(Request(20, small.header(Layout(2, 1))), pieces)
        monkeypatch.setattr(durable, "write_bytes", fill_up)
        return subject.finish()

    assert [type(result) for result in small.ranks(2, one)] == [WorkspaceError, WorkspaceError]
    assert not list(store.root.glob("*step-*"))


def test_pieces_that_leave_a_gap_are_an_error_at_the_boundary(store, small):
    subject = in_background(store)
    subject.begin(Request(20, small.header()), small.pieces(small.tensors(), Layout())[1:])
    with pytest.raises(CheckpointError, match="without overlap or gap"):
        step_until_over(subject)
    assert not list(store.root.glob("*step-*"))


def test_an_attempt_that_is_overtaken_in_the_background_commits_nothing(store, small, gate):
    subject = in_background(store)
    subject.begin(Request(20, small.header()), small.pieces(small.tensors(), Layout()))
    store.claim(RunIdentity(name="small", uid="r1", attempt=2))
    gate.set()
    with pytest.raises(WorkspaceError, match="a newer attempt"):
        subject.finish()
    assert not list(store.root.glob("*step-*"))


def test_a_begin_that_is_refused_leaves_nothing(store, small):
    store.claim(RunIdentity(name="small", uid="r1", attempt=2))
    subject = in_background(store)
    with pytest.raises(WorkspaceError, match="a newer attempt"):
        subject.begin(Request(20, small.header()), small.pieces(small.tensors(), Layout()))
    assert not subject.in_flight
    assert not list(store.root.glob("tmp-*"))


def test_what_follows_a_commit_is_part_of_the_save(store, small):
    def refuse(saved):
        assert saved.folder.is_dir()
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "elsewhere")

    subject = in_background(store, after_commit=refuse)
    subject.begin(Request(20, small.header()), small.pieces(small.tensors(), Layout()))
    with pytest.raises(WorkspaceError, match="elsewhere: Read-only file system"):
        subject.finish()


def test_a_rank_that_waits_lives_as_long_as_bytes_move_anywhere(store, small, gate, monkeypatch):
    monkeypatch.setattr(background, "LISTEN_SECONDS", 0.01)
    signs, looks = [0, 0], [0]

    def one(rank, gather):
        def count():
            signs[rank] += 1

        def gather_and_open(value):
            everyone = gather(value)
            if rank == 0 and isinstance(value, tuple):
                looks[0] += 1
                if looks[0] == 20:
                    gate.set()
            return everyone

        subject = in_background(store, gather=gather_and_open, rank=rank, sign_of_life=count)
        pieces = small.pieces(small.tensors(), Layout(2, 1), rank) if rank == 0 else []
        subject.begin(Request(20, small.header(Layout(2, 1))), pieces)
        with pytest.raises(CheckpointError):  # one rank's half is no checkpoint
            subject.finish()
        return signs[rank]

    found = small.ranks(2, one)
    assert found[0] == found[1]
    assert 1 <= found[0] < 15  # none while the gate was closed, but for the first look


def test_two_hundred_saves_take_no_more_memory(store, small):
    process, subject = psutil.Process(), in_background(store)
    pieces = small.pieces(small.tensors(), Layout())
    sizes, buffers = [], set()
    for step in range(1, 201):
        subject.begin(Request(step, small.header()), pieces)
        buffers.add(subject._staging._blocks[0].data_ptr())
        subject.finish()
        store.prune(1)
        sizes.append(process.memory_info().rss)
    assert len(buffers) == 1
    assert sizes[-1] - sizes[50] < 4 * 2**20
