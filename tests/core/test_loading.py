"""YAML in, overrides on top, and what a person reads when it is wrong."""

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pangu_core.config.base import Settings
from pangu_core.errors import ConfigError
from pangu_core.loading import apply_overrides, dump_yaml, load, nearest, parse_yaml, read_yaml


def test_an_override_is_read_as_yaml_and_leaves_the_original_alone():
    original = {"train": {"steps": 10}}
    changed = apply_overrides(original, ["train.steps=20", "train.precision=bf16", "a.b=[1, 2]"])
    assert changed == {"train": {"steps": 20, "precision": "bf16"}, "a": {"b": [1, 2]}}
    assert original == {"train": {"steps": 10}}


@pytest.mark.parametrize("override", ["train.steps", "=3", "train.steps.deep=1"])
def test_an_override_that_names_no_field_is_refused(override):
    with pytest.raises(ConfigError, match="--set"):
        apply_overrides({"train": {"steps": 10}}, [override])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing\.yaml.*No such file"):
        read_yaml(tmp_path / "nothing.yaml")


def test_a_file_that_is_not_utf8_is_refused_with_the_byte(tmp_path):
    path = tmp_path / "gbk.yaml"
    path.write_bytes("a: 中文".encode("gbk"))
    with pytest.raises(ConfigError, match=r"byte 3.*must be UTF-8"):
        read_yaml(path)


def test_broken_yaml_is_refused_with_its_line():
    with pytest.raises(ConfigError, match=r"^job.yaml line 3: did not find expected .*valid YAML"):
        parse_yaml("a: 1\nb: [", "job.yaml")


def test_a_character_that_yaml_forbids_is_refused_in_one_line():
    with pytest.raises(ConfigError, match=r"job.yaml: unacceptable character #x0007: .*position 3"):
        parse_yaml("a: \a", "job.yaml")


def test_a_key_that_is_there_twice_is_refused_with_its_line():
    with pytest.raises(ConfigError, match=r"job\.yaml line 4: key steps appears twice"):
        parse_yaml("train:\n  steps: 1\n  seed: 2\n  steps: 3\n", "job.yaml")


def test_a_merged_key_may_be_overridden():
    text = "base: &base {a: 1, b: 2}\nown: {<<: *base, a: 3}"
    assert parse_yaml(text, "job.yaml")[0]["own"] == {"a": 3, "b": 2}


class Choice(Settings):
    preset: Literal["350M", "2.6B"] = "350M"


def test_a_wrong_choice_is_told_the_nearest_one_as_it_is_written():
    with pytest.raises(
        ConfigError, match=r"preset: 350m: .*'350M' or '2\.6B'; did you mean 350M\?"
    ):
        load(Choice, {"preset": "350m"})


def test_a_block_that_is_no_mapping_is_refused():
    with pytest.raises(ConfigError, match="train: 7: must be a mapping of fields"):
        load(Choice, 7, "train")


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.booleans()))
def test_what_is_dumped_is_read_back(values):
    assert parse_yaml(dump_yaml(values), "test") == [values]


def test_a_power_of_ten_needs_no_point_and_text_like_it_stays_text():
    assert parse_yaml("[1e-4, 2E+3, 1.5e2, 1e, e5]", "test") == [[1e-4, 2e3, 150.0, "1e", "e5"]]
    assert parse_yaml(dump_yaml(["1e5"]), "test") == [["1e5"]]


def test_advice_names_the_nearest_key_or_all_of_them():
    assert nearest("step", ["steps", "seed"]) == "did you mean steps?"
    assert nearest("zzz", ["b", "a"]) == "use one of a, b"
