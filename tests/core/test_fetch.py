"""Files from elsewhere come once, whole, and go on where they stopped."""

import json
import os
import shutil
import signal
from collections import namedtuple

import fsspec
import pytest

from pangu_core.config.stages import FetchConfig
from pangu_core.entry import downloading, fetch, process
from pangu_core.entry.downloading import bring
from pangu_core.errors import ConfigError, RemoteError, Stopped, WorkspaceError
from pangu_core.loading import dump_yaml
from pangu_core.remote.files import Remote


def nothing(done, total):
    pass


@pytest.fixture
def source():
    """An empty folder of fsspec's memory."""
    system = fsspec.filesystem("memory")
    system.rm("/source", recursive=True) if system.exists("/source") else None
    return system


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(downloading, "BLOCK_BYTES", 10)
    monkeypatch.setattr(downloading, "WINDOW_BYTES", 30)


def files_in(folder):
    """Name -> content of what has its name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != downloading.INDEX
    }


def bring_all(folder, url="memory://source"):
    return bring(Remote(url, subject="data.input"), folder, nothing)


def test_files_of_every_size_come_whole(source, tmp_path, small_blocks):
    contents = {f"source/deep/{size}": bytes(range(size)) for size in (0, 1, 9, 10, 11, 95, 100)}
    for name, content in contents.items():
        source.pipe_file(f"/{name}", content)
    told = []
    remote = Remote("memory://source", subject="data.input")
    assert bring(remote, tmp_path, lambda done, total: told.append((done, total)))
    assert files_in(tmp_path) == contents
    assert told[-1] == (226, 226)


def test_what_is_there_in_the_same_version_does_not_come_again(source, tmp_path, monkeypatch):
    source.pipe({"/source/a": b"a", "/source/b": b"b"})
    assert bring_all(tmp_path)
    stamps = [path.stat().st_mtime_ns for path in tmp_path.rglob("*")]
    monkeypatch.setattr(Remote, "read_pieces", pytest.fail)
    assert not bring_all(tmp_path)
    assert [path.stat().st_mtime_ns for path in tmp_path.rglob("*")] == stamps


def test_changed_damaged_and_removed_files_are_put_right(source, tmp_path):
    source.pipe({f"/source/{name}": b"old" for name in "abc"})
    bring_all(tmp_path)
    source.pipe_file("/source/a", b"new")
    source.rm_file("/source/c")
    (tmp_path / "source/b").write_bytes(b"ol")
    (tmp_path / "stranger").touch()
    assert bring_all(tmp_path)
    assert files_in(tmp_path) == {"source/a": b"new", "source/b": b"old"}


def test_an_interrupted_file_goes_on_where_it_stopped(source, tmp_path, monkeypatch, small_blocks):
    source.pipe_file("/source/a", bytes(range(95)))
    read, asked = Remote.read_pieces, []

    def break_off(remote, pieces):
        asked.append((pieces[0].start, pieces[-1].stop))
        if len(asked) == 2:
            raise ConfigError("x", seen="a break", rule="r", fix="f")
        return read(remote, pieces)

    monkeypatch.setattr(Remote, "read_pieces", break_off)
    with pytest.raises(ConfigError):
        bring_all(tmp_path)
    [part] = tmp_path.glob(f".*{downloading.PART_SUFFIX}")
    assert part.read_bytes() == bytes(range(30))
    assert bring_all(tmp_path)
    assert asked == [(0, 30), (30, 60), (30, 60), (60, 90), (90, 95)]
    assert files_in(tmp_path) == {"source/a": bytes(range(95))}


def test_a_part_of_another_version_is_thrown_away(source, tmp_path, monkeypatch, small_blocks):
    source.pipe_file("/source/a", b"x" * 50)
    monkeypatch.setattr(downloading, "_keep", lambda *_: pytest.fail("interrupted"))
    with pytest.raises(pytest.fail.Exception):
        bring_all(tmp_path)
    monkeypatch.undo()
    source.pipe_file("/source/a", b"y" * 60)
    bring_all(tmp_path)
    assert files_in(tmp_path) == {"source/a": b"y" * 60}


def test_a_file_that_changes_while_it_comes_is_not_kept(
    source, tmp_path, monkeypatch, small_blocks
):
    source.pipe_file("/source/a", b"x" * 50)
    read = Remote.read_pieces

    def change(remote, pieces):
        blocks = read(remote, pieces)
        source.pipe_file("/source/a", b"y" * 50)
        return blocks

    monkeypatch.setattr(Remote, "read_pieces", change)
    with pytest.raises(RemoteError, match="changed while it was read"):
        bring_all(tmp_path)
    assert files_in(tmp_path) == {}


def test_a_pattern_of_a_bucket_and_a_file_of_it_come_from_s3(bucket, tmp_path):
    system = fsspec.filesystem("s3", skip_instance_cache=True)
    name = bucket.removeprefix("s3://")
    big = os.urandom(9 << 20)
    system.pipe({f"{name}/c/a.txt": b"a", f"{name}/c/b.md": b"b", f"{name}/w/big": big})
    assert bring_all(tmp_path / "data", f"{bucket}/c/*.txt")
    assert files_in(tmp_path / "data") == {"a.txt": b"a"}
    assert bring_all(tmp_path / "model", f"{bucket}/w/big")
    assert files_in(tmp_path / "model") == {"big": big}
    assert not bring_all(tmp_path / "model", f"{bucket}/w/big")


def test_too_small_a_volume_is_found_before_anything_comes(source, tmp_path, monkeypatch):
    source.pipe_file("/source/a", b"x" * 50)
    usage = namedtuple("usage", "total used free")(100, 51, 49)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(WorkspaceError, match="are to be fetched; free space"):
        bring_all(tmp_path)
    assert files_in(tmp_path) == {}


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Runs the stage on some sources; returns exit code and last word."""

    def run(*sources, uid="u1"):
        config = {"run": {"name": "r", "uid": uid}, "sources": list(sources)}
        (tmp_path / "config.yaml").write_text(dump_yaml(config))
        code = process.run("fetch", fetch.fetch)
        return code, json.loads((tmp_path / "last-word").read_text())

    monkeypatch.setenv("PANGU_WORKSPACE", str(tmp_path))
    monkeypatch.setenv("PANGU_CONFIG", str(tmp_path / "config.yaml"))
    monkeypatch.setenv("PANGU_TERMINATION_PATH", str(tmp_path / "last-word"))
    return run


DATA = {"field": "data.input", "url": "memory://source/*.txt", "target": "runs/r/fetched/data"}


def test_the_stage_says_whether_anything_came(stage, source, tmp_path):
    source.pipe_file("/source/a.txt", b"text")
    for skipped in (False, True):
        code, word = stage(DATA)
        assert (code, word["output"], word["skipped"]) == (0, "runs/r/fetched", skipped)
    assert (tmp_path / "runs/r/fetched/data/a.txt").read_bytes() == b"text"


def test_the_stage_names_the_field_and_never_tries_a_missing_file_again(stage, source):
    code, word = stage(DATA)
    assert code == ConfigError.exit_code
    assert word["message"].startswith("data.input: memory://source/*.txt: no file")


def test_the_stage_does_not_write_into_another_runs_folder(stage, source):
    source.pipe_file("/source/a.txt", b"text")
    stage(DATA)
    assert stage(DATA, uid="u2")[0] == WorkspaceError.exit_code


def test_a_signal_ends_the_stage_at_once(stage, source, monkeypatch):
    source.pipe_file("/source/a.txt", b"text")

    def stop(*_):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Remote, "read_pieces", stop)
    code, word = stage(DATA)
    assert code == Stopped.exit_code
    assert "what has come is kept" in word["message"]


def test_the_config_reads_back_as_itself():
    config = FetchConfig.model_validate({"run": {"name": "r", "uid": "u"}, "sources": [DATA]})
    assert FetchConfig.model_validate(config.dump()) == config


def test_progress_is_told_in_lines(stage, source, capsys):
    source.pipe_file("/source/a.txt", b"text")
    stage(DATA)
    assert "fetch data.input: 100 % of 0.0 MB" in capsys.readouterr().err
