"""Copies of checkpoints elsewhere: the manifest last, read against its hashes on the way back."""

import itertools

import pytest

from pangu_core.checkpoint import durable
from pangu_core.checkpoint.copier import Copier
from pangu_core.checkpoint.manifest import FILE_NAME, Layout
from pangu_core.checkpoint.mirror import Mirror
from pangu_core.checkpoint.reader import Checkpoint
from pangu_core.checkpoint.store import Store
from pangu_core.config.stages import RunIdentity
from pangu_core.errors import CheckpointError, ConfigError, RemoteError
from pangu_core.remote.files import Remote

RUN = RunIdentity(name="small", uid="r1")
PLACES = itertools.count()


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "checkpoints")


@pytest.fixture
def url():
    """A folder of fsspec's memory that no other test uses."""
    return f"memory://mirror-{next(PLACES)}"


@pytest.fixture
def mirror(url):
    return Mirror(url, sleep=lambda _: None)


@pytest.fixture
def save(store, small):
    """Saves a checkpoint whose values tell its step."""
    return lambda step: (
        store.save(step, small.pieces(small.tensors(step), Layout()), small.header()).folder
    )


def remote(url):
    return Remote(url, subject="x")


def damage(url, name):
    folder = remote(url)
    data = bytearray(folder.read(name))
    data[-1] ^= 1
    folder._fs.pipe_file(folder._path(name), bytes(data))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("kind", ["s3", "file"])
def test_a_copy_comes_back_as_it_was(kind, request, tmp_path, save):
    bucket = request.getfixturevalue("bucket") if kind == "s3" else f"file://{tmp_path}"
    mirror, folder = Mirror(f"{bucket}/copies"), save(10)
    assert mirror.newest() is None
    assert mirror.push(folder)
    assert mirror.newest() == "step-00000010"
    (tmp_path / "again").mkdir()
    back = mirror.fetch("step-00000010", tmp_path / "again")
    assert back == tmp_path / "again/step-00000010"
    assert contents(back) == contents(folder)
    mirror.prune([])
    assert mirror.names() == []


def test_the_manifest_goes_last_and_an_old_one_first(mirror, save, monkeypatch):
    done = []
    for verb in ("upload", "remove"):
        original = getattr(Remote, verb)

        def noted(self, *names, verb=verb, original=original):
            done.append((verb, next(n for n in names if isinstance(n, str)).rpartition("/")[2]))
            return original(self, *names)

        monkeypatch.setattr(Remote, verb, noted)
    mirror.push(save(10))
    assert done[-1] == ("upload", FILE_NAME)
    done.clear()
    folder = save(10)
    (folder / FILE_NAME).write_bytes((folder / FILE_NAME).read_bytes() + b"\n")
    mirror.push(folder)
    assert done[0] == ("remove", FILE_NAME)
    assert done[-1] == ("upload", FILE_NAME)


def test_what_is_there_already_is_not_copied_again(mirror, save, monkeypatch):
    folder = save(10)
    assert mirror.push(folder)
    monkeypatch.setattr(Remote, "upload", pytest.fail)
    assert not mirror.push(folder)


def test_a_copy_without_its_manifest_is_no_copy(mirror, url, save):
    for step in (9, 10, 100_000_000):
        mirror.push(save(step))
    remote(url).remove(f"step-100000000/{FILE_NAME}")
    remote(url)._fs.pipe_file(f"/{url.partition('://')[2]}/notes/manifest.json", b"{}")
    assert mirror.names() == ["step-00000010", "step-00000009"]


def test_only_copies_that_are_not_kept_are_removed(mirror, url, save):
    for step in (10, 20, 30):
        mirror.push(save(step))
    remote(url)._fs.pipe_file(f"/{url.partition('://')[2]}/notes.txt", b"mine")
    mirror.prune({"step-00000020", "owner.json"})
    assert mirror.names() == ["step-00000020"]
    assert "notes.txt" in remote(url).files()


def test_a_damaged_copy_is_skipped_for_the_one_before(mirror, url, save, tmp_path, caplog):
    for step in (10, 20):
        mirror.push(save(step))
    damage(url, "step-00000020/model-00000.safetensors")
    target = tmp_path / "again"
    target.mkdir()
    assert mirror.restore(target, RUN) == target / "step-00000010"
    assert "skipped step-00000020" in caplog.text
    assert [path.name for path in target.iterdir()] == ["step-00000010"]


def test_damage_in_all_copies_is_an_error_and_no_copies_are_none(mirror, url, save, tmp_path):
    assert mirror.restore(tmp_path, RUN) is None
    mirror.push(save(10))
    damage(url, "step-00000010/optimizer-00000.safetensors")
    with pytest.raises(CheckpointError, match="has SHA-256"):
        mirror.restore(tmp_path, RUN)


def test_the_copies_of_another_run_are_left_alone(mirror, url, save, tmp_path, store):
    mirror.push(save(10))
    stranger = RunIdentity(name="small", uid="r2")
    with pytest.raises(ConfigError, match="holds copies of run small"):
        mirror.restore(tmp_path, stranger)
    copier = Copier(Store(tmp_path / "others"), stranger, url)
    copier.wake()
    copier.wait(30)
    assert copier.failure.kind is ConfigError
    assert mirror.names() == ["step-00000010"]


def test_a_failing_store_is_tried_again_and_told_at_last(mirror, save, monkeypatch):
    tries = []

    def fail(self, *_):
        tries.append(1)
        raise RemoteError("x", seen="down", rule="r", fix="f")

    monkeypatch.setattr(Remote, "upload", fail)
    with pytest.raises(RemoteError, match="down"):
        mirror.push(save(10))
    assert len(tries) == 5
    monkeypatch.undo()
    assert mirror.names() == []


def test_the_web_cannot_be_written_to():
    with pytest.raises(ConfigError, match="https://h/x: cannot be written to"):
        Mirror("https://h/x")


@pytest.fixture
def copier(store, url, monkeypatch):
    monkeypatch.setattr(
        "pangu_core.checkpoint.copier.Mirror", lambda *a, **k: Mirror(*a, **k, sleep=lambda _: None)
    )
    return Copier(store, RUN, url)


def turn(copier):
    copier.wake()
    copier.wait(60)
    assert copier.is_over
    return copier.reports()


def test_the_copier_follows_what_is_kept_here(copier, mirror, store, save):
    for step in (10, 20, 30):
        save(step)
        assert [report.folder for report in turn(copier)] == [f"step-{step:08d}"]
    assert copier.num_bytes > 1000
    store.prune(2)
    assert turn(copier) == []
    assert mirror.names() == ["step-00000030", "step-00000020"]


def test_a_failed_turn_is_a_report_and_the_next_makes_up_for_it(
    copier, mirror, save, monkeypatch, caplog
):
    def fail(self, *_):
        raise RemoteError("x", seen="down", rule="r", fix="f")

    monkeypatch.setattr(Remote, "files", fail)
    save(10)
    [report] = turn(copier)
    assert (report.folder, report.error) == (None, "x: down: r; f")
    assert copier.failure.kind is RemoteError
    assert "no copy of the newest checkpoint" in caplog.text
    monkeypatch.undo()
    save(20)
    turn(copier)
    assert copier.failure is None
    assert mirror.names() == ["step-00000020", "step-00000010"]


def test_a_checkpoint_that_goes_while_it_is_copied_is_no_failure(copier, mirror, save, monkeypatch):
    save(10)
    save(20)
    push = Mirror.push

    def lose(self, folder):
        if folder.name == "step-00000010":
            durable.remove_folder(folder)
        return push(self, folder)

    monkeypatch.setattr(Mirror, "push", lose)
    assert [report.folder for report in turn(copier)] == ["step-00000020"]
    assert copier.failure is None
    assert mirror.names() == ["step-00000020"]


def test_an_emptied_workspace_does_not_empty_the_copies(copier, mirror, store, save):
    folder = save(10)
    turn(copier)
    (folder / FILE_NAME).unlink()
    turn(copier)
    assert mirror.names() == ["step-00000010"]
    assert Checkpoint.open(mirror.fetch("step-00000010", store.root)).manifest.step == 10


def test_a_newer_attempt_shuts_the_copier_out(copier, mirror, store, save):
    save(10)
    Store(store.root).claim(RunIdentity(name="small", uid="r1", attempt=2))
    assert "a newer attempt" in turn(copier)[0].error
    assert mirror.names() == []
