"""API keys: who is let in, and that a mounted Secret may change."""

from pathlib import Path

import pytest

from pangu_core.errors import ConfigError
from pangu_core.service.keys import Keyring, find_keys


def mount(folder: Path, version: str, **files: str) -> None:
    """A Secret as a kubelet mounts it: names lead through a link that is swapped as one."""
    data = folder / f"..{version}"
    data.mkdir(parents=True)
    for name, text in files.items():
        (data / name).write_text(text)
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    link = folder / "..new"
    link.symlink_to(data.name)
    link.replace(folder / "..data")


def test_without_keys_everyone_is_let_in():
    assert Keyring().accepts("")
    assert find_keys(None, {}).is_open
    assert find_keys(None, {"PANGU_API_KEYS": "", "PANGU_API_KEYS_FILE": ""}).is_open


def test_each_line_is_a_key_and_nothing_else_is(tmp_path):
    path = tmp_path / "keys"
    path.write_text("one\n\n  two \n")
    keys = Keyring(path)
    accepted = [key for key in ("one", "two", "", "on", "one\ntwo", "three") if keys.accepts(key)]
    assert accepted == ["one", "two"]


def test_keys_of_the_environment_are_parted_by_commas(tmp_path):
    path = tmp_path / "keys"
    path.write_text("file\n")
    keys = find_keys(None, {"PANGU_API_KEYS": "a, b", "PANGU_API_KEYS_FILE": str(path)})
    assert all(keys.accepts(key) for key in ("a", "b", "file"))
    assert not keys.accepts("a, b")


def test_a_mounted_secret_is_read_again_when_it_changes(tmp_path):
    mount(tmp_path / "keys", "1", first="alpha", second="beta\n")
    keys = Keyring(tmp_path / "keys")
    assert keys.accepts("alpha")
    assert keys.accepts("beta")
    mount(tmp_path / "keys", "2", first="gamma", second="beta\n")
    assert not keys.accepts("alpha")
    assert keys.accepts("gamma")


def test_a_file_emptied_later_lets_nobody_in(tmp_path):
    path = tmp_path / "keys"
    path.write_text("one\n")
    keys = Keyring(path)
    path.write_text("\n")
    assert not keys.accepts("one")
    assert not keys.accepts("")


def test_keys_that_cannot_be_read_any_more_stay_in_force(tmp_path):
    path = tmp_path / "keys"
    path.write_text("one\n")
    keys = Keyring(path)
    path.unlink()
    assert keys.accepts("one")
    assert not keys.accepts("two")


@pytest.mark.parametrize("text", [None, "", " \n"])
def test_asking_for_keys_and_having_none_is_refused(tmp_path, text):
    path = tmp_path / "keys"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match="API keys"):
        find_keys(str(path), {})
    with pytest.raises(ConfigError, match="at least one key"):
        find_keys(None, {"PANGU_API_KEYS": " , "})
