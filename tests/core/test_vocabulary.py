"""Where the vocabulary is looked for, in order."""

from pathlib import Path

import pytest

from pangu_core.data.vocabulary import cache_folder, find_vocabulary
from pangu_core.errors import ConfigError


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PANGU_TOKENIZER", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def make_vocabulary(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "vocab.model"
    path.write_bytes(b"")
    return path


def test_a_file_or_its_folder_may_be_named(tmp_path: Path) -> None:
    path = make_vocabulary(tmp_path / "named")
    assert find_vocabulary(path) == find_vocabulary(str(path.parent)) == path


def test_the_environment_comes_before_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = make_vocabulary(tmp_path / "cache/pangu")
    assert find_vocabulary() == cached
    path = make_vocabulary(tmp_path / "environment")
    monkeypatch.setenv("PANGU_TOKENIZER", str(path.parent))
    assert find_vocabulary() == path
    assert find_vocabulary(cached) == cached


def test_a_relative_cache_home_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == Path.home() / ".cache/pangu"


@pytest.mark.parametrize("named", [None, "nowhere", "."])
def test_a_missing_vocabulary_says_how_to_get_one(tmp_path: Path, named: str | None) -> None:
    with pytest.raises(ConfigError, match=r"make setup.*tools/fetch_data.py"):
        find_vocabulary(None if named is None else tmp_path / named)


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PANGU_TOKENIZER", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"PANGU_TOKENIZER: .*nowhere"):
        find_vocabulary()
