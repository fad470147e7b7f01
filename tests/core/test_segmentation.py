"""Segmentation against jieba itself, and where rjieba alone would differ."""

import logging
import warnings
from typing import Any

import pytest
import rjieba
from hypothesis import given
from hypothesis import strategies as st

from pangu_core.data.segmentation import cut


@pytest.fixture(scope="module")
def jieba() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jieba's source has invalid escapes
        import jieba
    jieba.setLogLevel(logging.ERROR)
    jieba.initialize()
    return jieba


HAN = st.characters(min_codepoint=0x4E00, max_codepoint=0x9FD5)
COMMON = st.sampled_from("的一是不了人我在有他这中大来上国和江小")
IN_BLOCK = st.sampled_from("+#&._%-0189azAZcCT")
PHRASES = st.sampled_from(
    [
        "AT&T",
        "c++",
        "C#",
        "T恤",
        "T恤衫",
        "4S店",
        "IP地址",
        "江南style",
        "1.5%",
        "7-8",
        "50%5",
        "\r\n",
    ]
)
HOSTILE = st.lists(st.one_of(HAN, COMMON, IN_BLOCK, PHRASES, st.characters()), max_size=20)

# A few characters again and again: the HMM's paths tie, or nearly, and the last bit decides.
REPEATED = st.lists(st.one_of(COMMON, HAN, IN_BLOCK), min_size=1, max_size=5).flatmap(
    lambda alphabet: st.text(st.sampled_from(alphabet), max_size=24)
)


@given(HOSTILE)
def test_hostile_mixtures_get_the_words_of_jieba(jieba: Any, pieces: list[str]) -> None:
    text = "".join(pieces)
    assert cut(text) == jieba.lcut(text)


@given(REPEATED)
def test_repeated_characters_get_the_words_of_jieba(jieba: Any, text: str) -> None:
    assert cut(text) == jieba.lcut(text)


@given(st.text(HAN, max_size=30))
def test_unknown_han_gets_the_words_of_jieba(jieba: Any, text: str) -> None:
    assert cut(text) == jieba.lcut(text)


@given(st.text())
def test_the_words_put_together_are_the_text(text: str) -> None:
    assert "".join(cut(text)) == text


def test_every_tenth_dictionary_word_is_cut_as_jieba_does(jieba: Any) -> None:
    words = [word for word, frequency in jieba.dt.FREQ.items() if frequency][::10]
    assert [word for word in words if cut(word) != jieba.lcut(word)] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("7-8", ["7", "-", "8"]),
        ("好7-8好", ["好", "7", "-", "8", "好"]),
        ("3.14.15%", ["3.14", ".", "15%"]),
        ("xc++y", ["x", "c++", "y"]),
        ("AT&T恤", ["AT&T", "恤"]),
        ("买T恤5-6件", ["买", "T恤", "5", "-", "6", "件"]),
        ("㐀㐁", ["㐀", "㐁"]),
        ("a\r\n\tb", ["a", "\r\n", "\t", "b"]),
        ("<eot>", ["<", "eot", ">"]),
        ("一江江江丁", ["一江江", "江丁"]),  # two paths of the same probability
        ("还本受", ["还", "本受"]),  # two that differ in the seventh decimal
        ("叠加入时", ["叠加", "入时"]),  # two ways through the dictionary, as near
        ("", []),
    ],
)
def test_a_known_case_is_cut(jieba: Any, text: str, words: list[str]) -> None:
    assert cut(text) == words == jieba.lcut(text)


@pytest.mark.parametrize("text", ["7-8", "㐀㐁", "一江江江丁", "还本受", "叠加入时"])
def test_rjieba_alone_would_differ(text: str) -> None:
    assert rjieba.Jieba().cut(text) != cut(text)
