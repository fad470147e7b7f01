"""An export whose target is an address: written in the workspace, then copied, its seal last."""

import json

import fsspec
import pytest

from pangu_core.checkpoint.manifest import Layout
from pangu_core.checkpoint.reader import Checkpoint
from pangu_core.checkpoint.store import Store
from pangu_core.entry import process
from pangu_core.entry.convert import convert_stage
from pangu_core.errors import ConfigError
from pangu_core.loading import dump_yaml
from pangu_core.remote.files import Remote

URL = "memory://exported/model"


@pytest.fixture
def export(small, tmp_path, monkeypatch):
    """Runs the stage on a checkpoint; returns its last word."""
    system = fsspec.filesystem("memory")
    if system.exists("/exported"):
        system.rm("/exported", recursive=True)
    tensors = small.pieces(small.tensors(), Layout())
    Store(tmp_path / "checkpoints").save(5, tensors, small.header())
    monkeypatch.setattr("pangu_core.log.set_up", lambda who: None)
    monkeypatch.setenv("PANGU_WORKSPACE", str(tmp_path))
    monkeypatch.setenv("PANGU_CONFIG", str(tmp_path / "config.yaml"))
    monkeypatch.setenv("PANGU_TERMINATION_PATH", str(tmp_path / "last-word"))

    def run(**more):
        config = {
            "run": {"name": "small", "uid": "r1"},
            "source": "checkpoints/step-00000005",
            "target": "runs/small/export",
            "fromFormat": "pangu",
            "copyTo": URL,
            **more,
        }
        (tmp_path / "config.yaml").write_text(dump_yaml(config))
        process.run("export", lambda: convert_stage("export"))
        return json.loads((tmp_path / "last-word").read_text())

    return run


def copied():
    return set(Remote(URL, subject="x").files())


def test_the_copy_is_what_was_exported_and_the_address_is_the_output(export, tmp_path):
    word = export()
    assert (word["code"], word["output"], word["skipped"]) == (0, URL, False)
    folder = tmp_path / "runs/small/export"
    assert copied() == {path.name for path in folder.iterdir()}
    assert Checkpoint.open(folder).manifest_sha256 == word["manifest_sha256"]


@pytest.mark.parametrize(
    ("form", "seal"),
    [("megatron", "latest_checkpointed_iteration.txt"), ("pangu", "manifest.json")],
)
def test_the_file_that_says_it_is_whole_comes_last(export, monkeypatch, form, seal):
    upload, sent = Remote.upload, []

    def note(self, source, name, count):
        sent.append(name)
        upload(self, source, name, count)

    monkeypatch.setattr(Remote, "upload", note)
    assert export(toFormat=form)["code"] == 0
    assert sent[-1] == seal
    assert set(sent) == copied()


def test_an_export_whose_copy_is_there_is_skipped_and_one_that_is_gone_is_made_again(export):
    export()
    assert export()["skipped"]
    Remote(URL, subject="x").remove("manifest.json")
    assert not export()["skipped"]
    assert "manifest.json" in copied()


def test_files_of_others_are_not_mixed_with_an_export(export):
    fsspec.filesystem("memory").pipe_file("/exported/model/theirs", b"")
    word = export()
    assert word["code"] == ConfigError.exit_code
    assert word["message"].startswith(f"export.to: {URL}: holds theirs: must be empty")
