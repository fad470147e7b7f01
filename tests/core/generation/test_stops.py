"""Stop strings, wherever the text is cut into pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pangu_core.generation.stops import StopFilter, find_stop, held_length

PIECES = st.lists(st.text("ab。", max_size=4), max_size=12)
STOPS = st.lists(st.text("ab。", min_size=1, max_size=4), max_size=3)


def run(pieces: list[str], stops: list[str]) -> tuple[list[str], bool]:
    """The pieces that come out, and whether a stop string ended them."""
    gate, shown = StopFilter(stops), []
    for piece in pieces:
        text, stopped = gate.feed(piece)
        shown.append(text)
        if stopped:
            return shown, True
    return [*shown, gate.finish()], False


@given(PIECES, STOPS)
def test_pieces_give_the_text_up_to_the_stop(pieces, stops):
    whole = "".join(pieces)
    cut = find_stop(whole, stops)
    shown, stopped = run(pieces, stops)
    assert "".join(shown) == whole[:cut]
    assert stopped == (cut is not None)


@given(PIECES, STOPS)
def test_where_the_pieces_are_cut_makes_no_difference(pieces, stops):
    letters = list("".join(pieces))
    assert "".join(run(letters, stops)[0]) == "".join(run(pieces, stops)[0])


@given(PIECES, STOPS)
def test_no_more_is_held_back_than_may_become_a_stop(pieces, stops):
    text = "".join(pieces)
    held = held_length(text, stops)
    assert held == 0 or any(stop.startswith(text[-held:]) for stop in stops)
    assert held < max(map(len, stops), default=1)


@pytest.mark.parametrize(
    ("text", "stops", "shown"),
    [
        ("one\n\ntwo", ["\n\n"], "one"),
        ("one two", ["three"], "one two"),
        ("abcX", ["abcX", "bc"], "a"),  # "bc" is complete first
        ("abc", ["c", "bc"], "a"),  # complete together: the longest
        ("stop", ["stop"], ""),
    ],
)
def test_the_stop_that_is_complete_first_ends_the_text(text, stops, shown):
    assert "".join(run(list(text), stops)[0]) == shown
