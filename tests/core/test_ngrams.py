"""What counting reaches on held-out text."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pangu_core.data.token_files import TokenFile, TokenFileWriter
from pangu_core.reporting.ngrams import HeldOut, held_out_losses, ngram_losses

V = 5
SHARES = (0.5, 0.5, 0.0)
tokens = st.lists(st.integers(0, V - 1), min_size=2, max_size=40).map(np.array)


@settings(deadline=None)
@given(training=tokens, before=st.integers(0, V - 1))
def test_both_models_are_probabilities_after_any_token(training: np.ndarray, before: int) -> None:
    pairs = [ngram_losses(training, np.array([before, label]), V) for label in range(V)]
    assert sum(np.exp(-unigram[0]) for unigram, _ in pairs) == pytest.approx(1.0)
    assert sum(np.exp(-bigram[0]) for _, bigram in pairs) == pytest.approx(1.0)


def test_losses_worked_out_by_hand() -> None:
    # Pairs 01 (twice), 12, 20: D = 2 / (2 + 2) = 1/2. After 0 comes 1 always.
    training = np.array([0, 1, 2, 0, 1])
    unigram, bigram = ngram_losses(training, np.array([0, 1, 0]), V)
    assert np.exp(-unigram) == pytest.approx([3 / 10, 3 / 10])
    assert np.exp(-bigram) == pytest.approx([1.5 / 2 + 0.25 * 0.3, 0.5 * 0.3])


def test_a_token_never_followed_falls_back_to_the_unigram() -> None:
    unigram, bigram = ngram_losses(np.array([0, 1, 0]), np.array([4, 1]), V)
    assert bigram == pytest.approx(unigram)


def write(folder: Path, documents: list[list[int]], mask: list[list[int]] | None) -> TokenFile:
    with TokenFileWriter(folder / "t", vocab_size=V, with_mask=mask is not None) as writer:
        for place, document in enumerate(documents):
            writer.add(document, mask[place] if mask else None)
            writer.end_document()
    return TokenFile.open(folder / "t")


def test_only_the_tokens_that_training_evaluates_on_are_scored(tmp_path: Path) -> None:
    file = write(tmp_path, [[0, 1, 0, 1, 0], [0, 1, 2, 3, 4, 4]], None)
    found = held_out_losses(file, HeldOut(SHARES, sequence_length=2, num_samples=1), V)
    assert found is not None
    assert (found.num_labels, found.num_held_out, found.num_counted) == (2, 6, 5)
    _, bigram = ngram_losses(np.array([0, 1, 0, 1, 0]), np.array([0, 1, 2]), V)
    assert found.bigram == pytest.approx(bigram.mean())
    everything = held_out_losses(file, HeldOut(SHARES, sequence_length=2, num_samples=99), V)
    assert everything is not None
    assert everything.num_labels == 4


def test_tokens_without_loss_are_not_scored(tmp_path: Path) -> None:
    file = write(tmp_path, [[0, 1, 0], [0, 1, 2]], [[1, 1, 1], [1, 0, 1]])
    found = held_out_losses(file, HeldOut(SHARES, sequence_length=2, num_samples=9), V)
    assert found is not None
    assert found.num_labels == 1
    assert found.unigram == pytest.approx(-np.log(1 / 8))


def test_a_split_too_short_for_a_sample_has_no_losses(tmp_path: Path) -> None:
    file = write(tmp_path, [[0, 1, 0], [0]], None)
    assert held_out_losses(file, HeldOut(SHARES, sequence_length=2, num_samples=9), V) is None
