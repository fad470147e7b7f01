"""What a request may say: OpenAI's fields, honoured or refused by name."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pangu_core.errors import ConfigError
from pangu_core.service.requests import field_of, read_request

SMALLEST = {"model": "m", "prompt": "a"}


def read(**values):
    return read_request({**SMALLEST, **values})


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ("a",)),
        ("", ("",)),
        (["a", "b"], ("a", "b")),
        ([1, 2], ((1, 2),)),
        ([[1], [2, 3]], ((1,), (2, 3))),
    ],
)
def test_the_four_forms_of_a_prompt_are_read(prompt, prompts):
    assert read(prompt=prompt).prompts == prompts


@pytest.mark.parametrize(
    "prompt", [[], [[]], ["a", 1], [1, [2]], [True], [1.0], 3, {"a": 1}, [[1], []]]
)
def test_any_other_prompt_is_refused(prompt):
    with pytest.raises(ConfigError, match="list of lists of token ids"):
        read(prompt=prompt)


def test_the_defaults_are_openais():
    settings = read().settings(seed=5)
    assert (settings.max_new_tokens, settings.temperature, settings.top_p) == (16, 1.0, 1.0)
    assert (settings.seed, settings.stop) == (5, ())
    assert read(seed=8, stop="x").settings(seed=5).seed == 8


def test_null_is_a_field_left_out():
    assert read(stop=None, logprobs=None, suffix=None, seed=None, max_tokens=None) == read()


@pytest.mark.parametrize(
    ("field", "neutral"),
    [("best_of", 1), ("presence_penalty", 0.0), ("frequency_penalty", 0), ("logit_bias", {})],
)
def test_a_field_without_effect_may_be_there_if_it_asks_for_nothing(field, neutral):
    assert read(**{field: neutral}) == read()
    with pytest.raises(ConfigError, match="is not supported") as caught:
        read(**{field: 2})
    assert caught.value.subject == field


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"top_p": 0}, "top_p"),
        ({"temperature": float("nan")}, "temperature"),
        ({"stop": ["a", ""]}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options"),
        ({"messages": []}, "messages"),
        ({"seed": 2**64}, "seed"),
    ],
)
def test_a_wrong_value_is_refused_with_its_field(values, field):
    with pytest.raises(ConfigError) as caught:
        read(**values)
    assert field_of(caught.value) == field


def test_an_unknown_field_gets_the_nearest_one():
    with pytest.raises(ConfigError, match="did you mean max_tokens"):
        read(max_token=1)


@pytest.mark.parametrize("body", [[], "text", 3, None])
def test_a_body_that_is_no_object_is_refused(body):
    with pytest.raises(ConfigError, match="must be a JSON object"):
        read_request(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = st.sampled_from(["prompt", "max_tokens", "stop", "n", "seed", "logit_bias", "user", "x"])


@given(st.dictionaries(FIELDS, JSON, max_size=4))
def test_whatever_comes_is_read_or_refused(values):
    with contextlib.suppress(ConfigError):
        read_request({**SMALLEST, **values}).settings(seed=0)
