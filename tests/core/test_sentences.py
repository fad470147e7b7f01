"""Sentences of Chinese, Western and mixed text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pangu_core.data.sentences import split_sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("你好。天气不错！你呢？", ["你好。", "天气不错！", "你呢？"]),
        ("他说：“你好。”她说：“好！”", ["他说：“你好。”", "她说：“好！”"]),
        ("他说“你好。”，然后走了。", ["他说“你好。”，然后走了。"]),
        ("真的吗？！……我不信。", ["真的吗？！……", "我不信。"]),
        ("「走！」（他走了。）完。", ["「走！」", "（他走了。）", "完。"]),
        ("来了!你呢?好", ["来了!", "你呢?", "好"]),
        ("他在No.3楼,3.5米高。好", ["他在No.3楼,3.5米高。", "好"]),
        (
            "Dr. Li came. He left at 3.14 p.m. now. Why?",
            ["Dr. Li came. ", "He left at 3.14 p.m. now. ", "Why?"],
        ),
        ("Yes. 好的。\n下一句。 \n", ["Yes. ", "好的。\n", "下一句。 \n"]),
        ("没有结尾", ["没有结尾"]),
        ("", []),
    ],
)
def test_sentences_end_where_a_reader_would_end_them(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


@settings(deadline=None)
@given(text=st.text(st.sampled_from("你好。！？…”“」），.!?\"') \nAb3")))
def test_joined_sentences_are_the_text(text: str) -> None:
    sentences = split_sentences(text)
    assert "".join(sentences) == text
    assert all(sentences)


@pytest.mark.parametrize("text", ["!" * 50_000, "。" * 50_000, "？”" * 25_000, "a. " * 20_000])
def test_long_runs_of_endings_are_split_without_exploding(text: str) -> None:
    assert "".join(split_sentences(text)) == text
