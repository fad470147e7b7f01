import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from k8s.text import one_line, pretty, pretty_documents

# Everything but lone surrogates, which no UTF-8 file can hold.
TEXT = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(
    ["1e3", "0o17", "yes", "NO", "null", "~", "2026-01-01", ": ", "{{ x }}", "a\nb\n", " a\n", "\n",
     "中文", "😀", "'\"", "# no", "- x", "\x85", "\u2028", "\ufeff", "\t", "a: b\nc: |\n", "a\n\n"]
)  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=20
)


@given(VALUES)
def test_one_line_reads_back_and_is_one_line_of_ascii(value):
    text = one_line(value)
    assert text.isascii()
    assert "\n" not in text
    assert yaml.safe_load(text) == value


@given(st.lists(VALUES, min_size=1, max_size=3))
def test_documents_read_back(values):
    assert list(yaml.safe_load_all(pretty_documents(values))) == values


@pytest.mark.parametrize("text", ["1e3", "0o17", "012", "1_000", "on", "~", ".5", "0x1F", "1:30"])
def test_text_that_some_reader_takes_for_something_else_is_quoted(text):
    assert pretty({"a": text}) == f'a: "{text}"\n'
    assert one_line([text]) == f'["{text}"]'


def test_people_see_text_as_they_wrote_it():
    assert pretty({"说明": "第一行\n第二行\n", "n": [1, 2], "name": "a-b.c/d"}) == (
        '"说明": |\n  第一行\n  第二行\n"n": [1, 2]\nname: a-b.c/d\n'
    )


def test_a_value_used_twice_is_written_twice():
    shared = {"a": "b"}
    assert "&" not in pretty([shared, shared]) + one_line([shared, shared])
