"""The folder of checkpoints: stepping back from damage, fencing, retention, full volumes."""

import errno
import json
import os
import subprocess

import pytest
import torch

from pangu_core.checkpoint import durable, ownership, tensor_file
from pangu_core.checkpoint.manifest import Layout
from pangu_core.checkpoint.reader import Checkpoint
from pangu_core.checkpoint.store import Store, find_checkpoint, load_newest
from pangu_core.config.stages import RunIdentity
from pangu_core.errors import CheckpointError, PanguError, WorkspaceError
from pangu_core.layout import whole

WHOLE = Layout()


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "checkpoints")


def save(store, small, step, **header):
    """A checkpoint whose values tell its step."""
    pieces = small.pieces(small.tensors(step), WHOLE)
    return store.save(step, pieces, small.header(**header)).folder


def save_many(store, small, steps):
    for step in steps:
        save(store, small, step)


def names(store):
    return sorted(path.name for path in store.root.iterdir())


def load_step(checkpoint):
    """Read everything; returns the step."""
    for stored in checkpoint.manifest.slices:
        checkpoint.read(stored.key, whole(stored.shape))
    return checkpoint.manifest.step


def flip(path, position=-1):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_the_damaged_tensor_is_named(store, small):
    folder = save(store, small, 10)
    flip(folder / "model-00000.safetensors")
    errors = Checkpoint.open(folder).verify()
    assert [error.subject for error in errors] == [str(folder / "model-00000.safetensors")]
    assert errors[0].seen.startswith("model/query_layer.mlp.down.bias ((0, 8),) has SHA-256")


def test_an_empty_store_loads_nothing(store):
    assert load_newest(store, load_step) is None


def test_all_ranks_step_back_together(store, small):
    save(store, small, 10)
    save(store, small, 20)

    def one(rank, gather):
        def load(checkpoint):
            if rank == 1 and checkpoint.manifest.step == 20:
                raise CheckpointError("step 20", seen="damage", rule="r", fix="f")
            return load_step(checkpoint)

        return load_newest(store, load, gather=gather, rank=rank)

    assert small.ranks(3, one) == [10, 10, 10]


def test_an_error_on_one_rank_is_raised_on_all(store, small):
    save(store, small, 10)

    def one(rank, gather):
        pieces = small.pieces(small.tensors(), WHOLE) if rank == 0 else [None]
        return store.save(20, pieces, small.header(), gather=gather, rank=rank)

    results = small.ranks(2, one)
    assert [type(result) for result in results] == [PanguError, PanguError]
    assert "AttributeError" in str(results[0])
    assert [path.name for path in store.candidates()] == ["step-00000010"]


def test_a_newer_attempt_shuts_the_older_out(store, small):
    save(store, small, 10, attempt=1)
    store.claim(RunIdentity(name="small", uid="r1", attempt=2))
    with pytest.raises(WorkspaceError, match="a newer attempt \\(2\\) owns this folder"):
        save(store, small, 20, attempt=1)
    save(store, small, 10, attempt=2)
    assert json.loads((store.root / "latest").read_text())["attempt"] == 2


def test_an_attempt_that_is_overtaken_while_it_writes_commits_nothing(store, small, monkeypatch):
    save(store, small, 10)
    newer = RunIdentity(name="small", uid="r1", attempt=2)
    original = tensor_file.TensorWriter.write

    def write(writer, name, tensor):
        store.claim(newer)
        return original(writer, name, tensor)

    monkeypatch.setattr(tensor_file.TensorWriter, "write", write)
    with pytest.raises(WorkspaceError, match="a newer attempt"):
        save(store, small, 20)
    assert names(store) == ["latest", "owner.json", "step-00000010"]


def test_another_run_is_refused(store, small):
    save(store, small, 10)
    with pytest.raises(WorkspaceError, match="owned by run small"):
        store.claim(RunIdentity(name="small", uid="r2"))


def test_saving_a_step_again_replaces_it(store, small):
    save(store, small, 10)
    other = small.pieces(small.tensors(seed=99), WHOLE)
    folder = store.save(10, other, small.header(attempt=2)).folder
    assert Checkpoint.open(folder).manifest.run.attempt == 2
    table = Checkpoint.open(folder).read("model/ln_f.bias", ((0, 8),))
    assert torch.equal(table, small.tensors(seed=99)["model/ln_f.bias"])
    assert names(store) == ["latest", "owner.json", "step-00000010"]


def test_a_kill_between_the_two_renames_loses_nothing(store, small):
    folder = save(store, small, 10)
    folder.rename(store.root / "replaced-step-00000010")
    assert load_newest(store, load_step) == 10


def test_the_newest_and_the_final_checkpoint_are_kept(store, small):
    for step in (10, 20, 30, 40):
        save(store, small, step, final=step == 20)
    store.prune(1)
    assert [path.name for path in store.candidates()] == ["step-00000040", "step-00000020"]


def test_pruning_keeps_the_newest_that_is_whole(store, small):
    for step in (10, 20, 30):
        folder = save(store, small, step)
    (folder / "manifest.json").unlink()
    store.prune(1)
    assert load_newest(store, load_step) == 20


def test_leftovers_of_a_dead_attempt_are_removed_at_the_next_save(store, small):
    durable.new_temporary(store.root, "step-00000010-1")
    save(store, small, 10)
    assert names(store) == ["latest", "owner.json", "step-00000010"]


def test_a_folder_of_checkpoints_means_its_newest(store, small):
    save(store, small, 9)
    newest = save(store, small, 10)
    assert find_checkpoint(store.root) == newest
    assert find_checkpoint(newest) == newest
    with pytest.raises(CheckpointError, match="no checkpoint"):
        find_checkpoint(store.root.parent)


@pytest.mark.parametrize(("writes", "newest"), [(0, 10), (50, 10), (110, 10), (111, 10), (112, 20)])
def test_a_full_volume_leaves_what_was_there(writes, newest, store, small, monkeypatch):
    """It takes some writes (111 tensors, the manifest, the pointer) and then no more."""
    save(store, small, 10)
    left = iter(range(writes))

    def fill_up(original):
        def limited(*args):
            if next(left, None) is None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "volume")
            return original(*args)

        return limited

    writer = tensor_file.TensorWriter
    monkeypatch.setattr(writer, "write", fill_up(writer.write))
    monkeypatch.setattr(durable, "write_bytes", fill_up(durable.write_bytes))
    with pytest.raises(WorkspaceError, match="No space left on device"):
        save(store, small, 20)
    assert load_newest(store, load_step) == newest
    assert not list(store.root.glob("tmp-*"))


@pytest.fixture
def tiny_volume(tmp_path):
    """A tmpfs with room for two small checkpoints."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount a small tmpfs here")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_volume_that_really_is_full_says_so(small, tiny_volume):
    store = Store(tiny_volume)
    with pytest.raises(WorkspaceError, match="No space left on device"):
        save_many(store, small, range(1, 20))
    newest = int(max(path.name for path in store.candidates()).removeprefix("step-"))
    assert load_newest(store, load_step) == newest >= 1
    assert not list(store.root.glob("tmp-*"))


def test_a_run_has_one_fence_for_all_its_stages(small, tmp_path):
    run = RunIdentity(name="small", uid="r1", attempt=2)
    ownership.claim(tmp_path, run, "preprocess")
    store = Store(tmp_path / "checkpoints", fence=tmp_path)
    with pytest.raises(WorkspaceError, match=r"must not write over another's results"):
        store.claim(run.model_copy(update={"uid": "r2"}))
    save(store, small, 10, attempt=1)
    assert names(store) == ["latest", "step-00000010"]


def test_an_owner_file_that_is_no_owner_is_refused(store):
    store.root.mkdir()
    (store.root / "owner.json").write_text("[]")
    with pytest.raises(WorkspaceError, match="must be an owner's name, uid and attempts"):
        store.claim(RunIdentity(name="small", uid="r1"))
