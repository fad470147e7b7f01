"""From scores to tokens: properties of each filter, of the draw, and of their order."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pangu_core.errors import ConfigError
from pangu_core.generation.sampling import (
    draw,
    heat,
    keep_top_k,
    keep_top_p,
    next_ids,
    penalise,
    stream_seed,
    uniform,
)
from pangu_core.generation.settings import GenerationSettings, read_settings

# Few distinct values, so that ties are common.
ROWS = st.lists(st.integers(-8, 8).map(lambda n: n / 2), min_size=2, max_size=12)
CHANCE = st.floats(0, 1, exclude_max=True)


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values])


def choose(scores: torch.Tensor, chance: float = 0.5, **settings) -> int:
    seen = torch.zeros_like(scores, dtype=torch.bool)
    rules = GenerationSettings(**settings)
    return int(next_ids(scores, rules, seen_BV=seen, uniforms_B=[chance])[0])


@given(ROWS, st.integers(1, 14))
def test_top_k_keeps_the_k_best_and_of_equals_the_lowest_ids(values, k):
    kept = keep_top_k(row(*values), k)[0].isfinite().nonzero().flatten().tolist()
    best = sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]
    assert kept == sorted(best)


@given(ROWS, st.integers(1, 14), CHANCE)
def test_top_k_never_draws_outside_the_k_best(values, k, chance):
    chosen = choose(row(*values), chance, top_k=k, top_p=1.0)
    assert sum(value > values[chosen] for value in values) < k


@given(ROWS, st.floats(0.01, 0.999))
def test_top_p_keeps_the_smallest_set_that_reaches_p(values, p):
    probabilities = torch.tensor(values, dtype=torch.float64).softmax(0)
    kept = keep_top_p(row(*values), p)[0].isfinite()
    inside = probabilities[kept]
    assert inside.sum() >= p - 1e-9
    assert inside.sum() - inside.min() < p + 1e-9
    assert kept.all() or inside.min() >= probabilities[~kept].max() - 1e-12


def test_top_p_of_equals_keeps_the_lowest_ids():
    assert keep_top_p(row(1.0, 1.0, 1.0, 1.0), 0.5)[0].isfinite().tolist() == [
        True,
        True,
        False,
        False,
    ]


@given(ROWS, st.floats(0.001, 1))
def test_top_p_always_keeps_the_best(values, p):
    assert keep_top_p(row(*values), p)[0].argmax() == row(*values).argmax()


@given(ROWS, CHANCE)
def test_a_temperature_near_zero_is_greedy(values, chance):
    greedy = choose(row(*values), greedy=True)
    for temperature in (1e-30, 1e-40, 1e-46, 5e-324):  # float32 holds no number as the last two
        chosen = choose(row(*values), chance, temperature=temperature, top_p=1.0)
        assert values[chosen] == values[greedy]
    assert choose(row(*values), chance, temperature=0.0) == greedy


@given(ROWS)
def test_greedy_takes_the_lowest_id_of_the_best(values):
    assert choose(row(*values), greedy=True) == values.index(max(values))


@given(ROWS, st.integers(0, 2**12 - 1), st.floats(1.0, 4.0))
def test_a_penalty_lowers_seen_scores_only(values, seen, penalty):
    mask = torch.tensor([[bool(seen >> i & 1) for i in range(len(values))]])
    result = penalise(row(*values), mask, penalty)
    assert torch.equal(result[~mask], row(*values)[~mask])
    assert (result[mask] <= row(*values)[mask]).all()


def test_a_penalty_divides_positive_and_multiplies_negative_scores():
    seen = torch.tensor([[True, True, False]])
    assert penalise(row(3.0, -3.0, 3.0), seen, 2.0).tolist() == [[1.5, -6.0, 3.0]]


def test_a_draw_follows_the_probabilities():
    scores = row(*(math.log(p) for p in (0.1, 0.0625, 0.5, 0.3375))).repeat(1000, 1)
    chances = [(i + 0.5) / 1000 for i in range(1000)]
    counts = torch.bincount(draw(scores, chances), minlength=4).tolist()
    assert counts == pytest.approx([100, 62.5, 500, 337.5], abs=1)


@given(ROWS, st.sampled_from([0.0, 1 - 2**-52, 0.5]))
def test_a_draw_never_takes_what_was_filtered_out(values, chance):
    scores = row(-math.inf, *values, -math.inf)
    assert 0 < int(draw(scores, [chance])[0]) <= len(values)


def test_extreme_scores_do_not_overflow():
    assert heat(row(3e38, -3e38), 1e-3).tolist() == [[0.0, -math.inf]]
    assert choose(row(-3e38, 3e38), 0.999, temperature=1e-3) == 1


def test_the_filters_apply_in_the_published_order():
    scores, seen = (
        torch.randn(1, 50, generator=torch.Generator().manual_seed(1)),
        torch.zeros(1, 50),
    )
    seen = seen.bool().index_fill(1, torch.tensor([3, 7, 8]), True)
    rules = GenerationSettings(repetition_penalty=1.3, temperature=0.7, top_k=12, top_p=0.8)
    by_hand = keep_top_p(keep_top_k(heat(penalise(scores, seen, 1.3), 0.7), 12), 0.8)
    for chance in (0.0, 0.3, 0.6, 0.99):
        chosen = next_ids(scores, rules, seen_BV=seen, uniforms_B=[chance])
        assert torch.equal(chosen, draw(by_hand, [chance]))


@given(st.integers(), st.integers(0, 2000))
def test_a_random_number_is_a_function_of_seed_prompt_copy_and_position(seed, position):
    stream = stream_seed(seed, [5, 6], 0)
    number = uniform(stream, position)
    assert 0 <= number <= 1 - 2**-52
    assert number == uniform(stream_seed(seed, [5, 6], 0), position)
    others = [(seed + 1, [5, 6], 0), (seed, [5, 7], 0), (seed, [5, 6], 1)]
    numbers = {uniform(stream_seed(*other), position) for other in others}
    assert len(numbers | {number, uniform(stream, position + 1)}) == 5


def test_random_numbers_are_spread_evenly():
    numbers = [uniform(stream_seed(1, [2], 0), position) for position in range(4000)]
    counts = torch.histc(torch.tensor(numbers), bins=10, min=0, max=1)
    assert counts.sub(400).abs().max() < 100


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("repetition_penalty", 0.0),
        ("max_new_tokens", 0),
        ("stop", ("",)),
    ],
)
def test_a_setting_out_of_range_is_named(name, value):
    with pytest.raises(ConfigError) as caught:
        read_settings({name: value})
    assert caught.value.subject.startswith(name)


def test_an_unknown_setting_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean max_new_tokens"):
        read_settings({"max_new_token": 3})
