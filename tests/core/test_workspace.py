"""Paths stay inside the workspace."""

import pytest

from pangu_core.errors import ConfigError
from pangu_core.workspace import RunPaths, resolve


@pytest.mark.parametrize("path", ["/etc/passwd", "../outside", "runs/../../outside"])
def test_a_path_that_leaves_the_workspace_is_refused(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PANGU_WORKSPACE", str(tmp_path))
    with pytest.raises(ConfigError, match="must be relative to the workspace"):
        resolve(path)


def test_a_workspace_that_is_not_there_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("PANGU_WORKSPACE", str(tmp_path / "gone"))
    with pytest.raises(ConfigError, match="PANGU_WORKSPACE"):
        resolve("corpus")


def test_a_run_keeps_everything_below_its_own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PANGU_WORKSPACE", str(tmp_path))
    paths = RunPaths("novel")
    assert resolve(paths.checkpoints) == tmp_path / "runs/novel/checkpoints"
    assert paths.stage_marker("merge") == "runs/novel/stages/merge.json"
