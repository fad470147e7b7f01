"""Damage of every kind is found when a checkpoint is loaded, named, and the one before is taken."""

import json
import os
import shutil

import pytest

from pangu_core.checkpoint.manifest import Layout
from pangu_core.checkpoint.reader import Checkpoint
from pangu_core.checkpoint.store import Store, load_newest
from pangu_core.config.stages import RunIdentity
from pangu_core.errors import CheckpointError, WorkspaceError
from pangu_core.layout import whole

LAYOUT = Layout(2, 1)
MODEL, OPTIMIZER = "model-00000.safetensors", "optimizer-00001.safetensors"


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "checkpoints")


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "pangu.model"
    path.write_bytes(b"pieces of words")
    return path


@pytest.fixture
def save(store, small, vocabulary):
    """Save a step by two tensor ranks, with every field of the header filled; returns its folder."""

    def save(step):
        tensors = small.tensors(step)
        header = small.header(LAYOUT, samples=8 * step, validation_loss=2.5)

        def one(rank, gather):
            pieces = small.pieces(tensors, LAYOUT, rank)
            more = {"vocabulary": vocabulary, "gather": gather, "rank": rank}
            return store.save(step, pieces, header, **more).folder

        return small.ranks(2, one)[0]

    return save


def load_everything(checkpoint):
    """Read all that a checkpoint holds; returns step and samples."""
    for stored in checkpoint.manifest.slices:
        checkpoint.read(stored.key, whole(stored.shape))
    checkpoint.vocabulary()
    return checkpoint.manifest.step, checkpoint.manifest.samples


def flip(path, position=-1):
    """Change a bit; ``position`` may be a text that is there."""
    data = bytearray(path.read_bytes())
    data[data.index(position) if isinstance(position, bytes) else position] ^= 1
    path.write_bytes(data)


def swap(first, second):
    first.rename(first.with_name("aside"))
    second.rename(first)
    first.with_name("aside").rename(second)


def take_from_before(folder, name):
    shutil.copy(folder.with_name("step-00000010") / name, folder / name)


DAMAGES = {
    "a flipped weight": lambda folder: flip(folder / MODEL),
    "a flipped moment": lambda folder: flip(folder / OPTIMIZER),
    "a flipped first moment": lambda folder: flip(folder / OPTIMIZER, -6000),
    "a flipped header of a shard": lambda folder: flip(folder / MODEL, b"shape"),
    "a flipped length of a header": lambda folder: flip(folder / MODEL, 6),
    "a truncated shard": lambda folder: os.truncate(folder / MODEL, 5000),
    "a truncated optimizer": lambda folder: os.truncate(folder / OPTIMIZER, 9000),
    "an empty optimizer": lambda folder: os.truncate(folder / OPTIMIZER, 0),
    "a missing shard": lambda folder: (folder / MODEL).unlink(),
    "a missing optimizer": lambda folder: (folder / OPTIMIZER).unlink(),
    "a folder in a shard's place": lambda folder: [(folder / MODEL).unlink(), (folder / MODEL).mkdir()],
    "two shards swapped": lambda folder: swap(folder / MODEL, folder / "model-00001.safetensors"),
    "a shard of the step before": lambda folder: take_from_before(folder, MODEL),
    "moments of the step before": lambda folder: take_from_before(folder, OPTIMIZER),
    "another vocabulary": lambda folder: flip(folder / "vocab.model"),
    "a missing vocabulary": lambda folder: (folder / "vocab.model").unlink(),
    "a missing manifest": lambda folder: (folder / "manifest.json").unlink(),
    "an empty manifest": lambda folder: os.truncate(folder / "manifest.json", 0),
    "a truncated manifest": lambda folder: os.truncate(folder / "manifest.json", 900),
    "a manifest of zeros": lambda folder: (folder / "manifest.json").write_bytes(bytes(900)),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_skipped(damage, store, save, caplog):
    save(10)
    DAMAGES[damage](save(20))
    assert load_newest(store, load_everything) == (10, 80)
    assert "step-00000020" in caplog.text


@pytest.mark.parametrize("damage", [name for name in DAMAGES if "before" not in name])
def test_damage_everywhere_is_an_error_and_never_a_fresh_start(damage, store, save):
    for step in (10, 20):
        DAMAGES[damage](save(step))
    with pytest.raises(CheckpointError):
        load_newest(store, load_everything)


CHANGES = {
    "the step": ("step", 21),
    "the sample counter": ("samples", 161),
    "the mark of the last": ("final", True),
    "the validation loss": ("validation_loss", 0.1),
    "the layout": ("layout", {"tp": 1, "dp": 2}),
    "the dtype": ("dtype", "bf16"),
    "the trainer's settings": ("training", {"micro_batch_size": 3}),
    "the run": ("run", {"name": "small", "uid": "r1", "attempt": 9}),
    "the skipped steps": ("skipped", 3),
    "the seal": ("sha256", "0" * 64),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_manifest_changed_by_hand_is_named_and_skipped(change, store, save, caplog):
    save(10)
    path, (field, value) = save(20) / "manifest.json", CHANGES[change]
    values = json.loads(path.read_text())
    assert values[field] != value
    values[field] = value
    path.write_text(json.dumps(values, indent=1))
    assert load_newest(store, load_everything) == (10, 80)
    assert "step-00000020" in caplog.text
    assert "manifest.json: content has SHA-256" in caplog.text


def test_two_slices_that_changed_places_are_found(store, save, caplog):
    """Their hashes are right and they cover the tensor; only the seal knows."""
    save(10)
    path = save(20) / "manifest.json"
    key = '"model/layers.0.mlp.up.weight"'
    rows = [row for row in path.read_text().split("\n") if key in row]
    assert len(rows) == 2
    parts = [json.dumps(json.loads(row.rstrip(","))["part"]) for row in rows]
    text = path.read_text().replace(rows[0], rows[0].replace(parts[0], parts[1]))
    path.write_text(text.replace(rows[1], rows[1].replace(parts[1], parts[0])))
    assert load_newest(store, load_everything) == (10, 80)
    assert "content has SHA-256" in caplog.text


def test_a_manifest_without_a_seal_is_an_older_one(store, save):
    path = save(20) / "manifest.json"
    values = json.loads(path.read_text())
    for later in ("sha256", "validation_loss", "skipped", "loss_scale"):
        del values[later]
    path.write_text(json.dumps(values))
    manifest = Checkpoint.open(path.parent).manifest
    assert (manifest.sha256, manifest.validation_loss, manifest.samples) == (None, None, 160)


@pytest.mark.parametrize("content", [b"", b"{", bytes(50)])
def test_a_damaged_pointer_harms_nobody(content, store, save):
    save(20)
    (store.root / "latest").write_bytes(content)
    assert load_newest(store, load_everything) == (20, 160)
    save(30)
    assert json.loads((store.root / "latest").read_text())["step"] == 30


@pytest.mark.parametrize("content", [b"", b"{", b"[]", bytes(50)])
def test_a_damaged_owner_is_named_and_nobody_takes_the_folder(content, store, save):
    save(20)
    (store.root / "owner.json").write_bytes(content)
    with pytest.raises(WorkspaceError, match=r"owner\.json: .*delete it if no job runs"):
        store.claim(RunIdentity(name="small", uid="r1"))
    assert load_newest(store, load_everything) == (20, 160)
