"""The computed permutation: a bijection for every size, and well mixed."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pangu_core.data.permutation import permute


def whole(size: int, seed: int = 0, epoch: int = 0) -> list[int]:
    epochs = np.full(size, epoch)
    permuted: list[int] = permute(np.arange(size), size=size, seed=seed, epochs=epochs).tolist()
    return permuted


@settings(deadline=None)
@given(size=st.integers(1, 2_000), seed=st.integers(), epoch=st.integers(0, 2**40))
@example(size=1, seed=0, epoch=0)
@example(size=2, seed=0, epoch=0)
@example(size=3, seed=-1, epoch=1)
@example(size=1_021, seed=2**70, epoch=2)
@example(size=1_024, seed=7, epoch=3)
@example(size=1_025, seed=7, epoch=3)
def test_every_index_comes_exactly_once(size: int, seed: int, epoch: int) -> None:
    assert sorted(whole(size, seed, epoch)) == list(range(size))


@settings(deadline=None)
@given(
    size=st.integers(1, 2**50),
    draws=st.lists(st.tuples(st.integers(0, 2**50), st.integers(0, 9)), min_size=1, max_size=8),
)
def test_a_batch_gives_what_single_calls_give(size: int, draws: list[tuple[int, int]]) -> None:
    indices = np.array([index % size for index, _ in draws])
    epochs = np.array([epoch for _, epoch in draws])
    together = permute(indices, size=size, seed=5, epochs=epochs)
    for i in range(len(draws)):
        one = permute(indices[i : i + 1], size=size, seed=5, epochs=epochs[i : i + 1])
        assert one[0] == together[i] < size


def test_seeds_and_epochs_give_unrelated_orders() -> None:
    orders = [whole(1_000, seed, epoch) for seed in range(3) for epoch in range(3)]
    for i, first in enumerate(orders):
        for second in orders[:i]:
            # Two random permutations agree in one place on average.
            assert np.count_nonzero(np.array(first) == np.array(second)) < 10


@pytest.mark.parametrize("size", [2, 3, 5, 7, 16, 17])
def test_every_place_is_equally_likely(size: int) -> None:
    epochs, draws = np.arange(4_000), np.zeros((size, size))
    for index in range(size):
        places = permute(np.full(4_000, index), size=size, seed=1, epochs=epochs)
        draws[index] = np.bincount(places, minlength=size)
    expected = 4_000 / size
    # Seven standard deviations of a binomial count.
    assert np.abs(draws - expected).max() < 7 * np.sqrt(expected)


def test_neighbours_are_torn_apart() -> None:
    steps = np.abs(np.diff(whole(100_000)))
    assert np.count_nonzero(steps == 1) < 20
    # A third of n, as for random pairs.
    assert steps.mean() == pytest.approx(100_000 / 3, rel=0.01)


def test_the_order_is_frozen() -> None:
    # A run that goes on after an upgrade must go on with the same samples.
    assert whole(10, seed=1234) == [1, 2, 3, 5, 0, 4, 9, 6, 7, 8]
    assert whole(10, seed=1234, epoch=1) == [7, 2, 3, 5, 8, 6, 9, 4, 1, 0]
