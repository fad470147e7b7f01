"""Batches: masks and positions by hand and by rule, and the dealing of micro-batches."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pangu_core.data.batches import FILLER, Batch, make_batch, micro_batches
from pangu_core.data.samples import Sample

TOKENS = st.lists(st.sampled_from([9, 10, 11]), min_size=2, max_size=12)


def sample(tokens: list[int], sample_id: int = 0) -> Sample:
    return Sample(np.array(tokens, np.int64), np.ones(len(tokens) - 1, np.float32), sample_id)


@dataclass(frozen=True)
class Counting:
    """A source whose n-th sample has id n."""

    sequence_length: int = 4
    samples_per_epoch: int = 1_000

    def samples(self, counters: Sequence[int]) -> list[Sample]:
        return [sample([counter] * 5, counter) for counter in counters]


def deal(step: int, size: int, micro: int, dp: int) -> list[list[tuple[int, Batch]]]:
    """What each data rank runs."""
    return [
        micro_batches(
            Counting(),
            step * size,
            global_batch_size=size,
            micro_batch_size=micro,
            dp_rank=rank,
            dp_size=dp,
            document_mask=True,
        )
        for rank in range(dp)
    ]


def weighted_ids(batches: list[tuple[int, Batch]]) -> list[int]:
    return [
        int(sample_id)
        for _, batch in batches
        for sample_id, mask in zip(batch.sample_ids, batch.loss_mask, strict=True)
        if mask.any()
    ]


def test_positions_and_documents_start_again_after_an_end_of_document() -> None:
    batch = make_batch([sample([5, 9, 6, 7, 9, 9, 8, 3]), sample([9] * 8)], document_mask=True)
    assert batch.documents is not None
    assert batch.documents.tolist() == [[0, 0, 1, 1, 1, 2, 3], [0, 1, 2, 3, 4, 5, 6]]
    assert batch.positions.tolist() == [[0, 1, 0, 1, 2, 0, 0], [0] * 7]
    assert batch.labels[0].tolist() == [9, 6, 7, 9, 9, 8, 3]
    assert batch.loss_mask.tolist() == [[1.0] * 7] * 2


def test_plain_causal_batches_have_no_documents() -> None:
    batch = make_batch([sample([5, 9, 6, 7])], document_mask=False)
    assert batch.documents is None
    assert batch.positions.tolist() == [[0, 1, 2]]


def test_types_are_the_promised_ones() -> None:
    batch = make_batch([sample([5, 9, 6])], document_mask=True)
    assert batch.documents is not None
    arrays = (batch.tokens, batch.labels, batch.positions, batch.sample_ids)
    assert [array.dtype for array in arrays] == [np.int64] * 4
    assert (batch.loss_mask.dtype, batch.documents.dtype) == (np.float32, np.int32)


@settings(deadline=None)
@given(tokens=TOKENS)
def test_equal_documents_are_what_the_reference_lets_see(tokens: list[int]) -> None:
    batch = make_batch([sample(tokens)], document_mask=True)
    length = len(tokens) - 1
    visible = np.tril(np.ones((length, length), bool))
    positions = np.arange(length)
    for i in range(length):
        if tokens[i] == 9:  # rows behind an end of document do not see it or what is before
            visible[i + 1 :, : i + 1] = False
            positions[i + 1 :] = np.arange(length - i - 1)
    documents = batch.documents
    assert documents is not None
    same = documents[0][:, None] == documents[0][None, :]
    assert (np.tril(same) == visible).all()
    assert batch.positions[0].tolist() == positions.tolist()


@settings(deadline=None)
@given(
    step=st.integers(0, 5), size=st.integers(1, 20), micro=st.integers(1, 6), dp=st.integers(1, 7)
)
def test_any_number_of_ranks_trains_on_each_sample_exactly_once(
    step: int, size: int, micro: int, dp: int
) -> None:
    ranks = deal(step, size, micro, dp)
    ids = [sample_id for batches in ranks for sample_id in weighted_ids(batches)]
    assert sorted(ids) == list(range(step * size, (step + 1) * size))
    assert len({len(batches) for batches in ranks}) == 1
    assert {batch.tokens.shape for batches in ranks for _, batch in batches} == {(micro, 4)}
    indices = sorted(index for batches in ranks for index, _ in batches)
    assert indices == list(range(len(indices)))


@settings(deadline=None)
@given(size=st.integers(1, 20), micro=st.integers(1, 6), dp=st.integers(1, 7))
def test_a_micro_batch_is_the_same_whoever_runs_it(size: int, micro: int, dp: int) -> None:
    alone = dict(deal(2, size, micro, 1)[0])
    for index, batch in (pair for batches in deal(2, size, micro, dp) for pair in batches):
        if index in alone:
            assert batch.sample_ids.tolist() == alone[index].sample_ids.tolist()
        else:
            assert not batch.loss_mask.any()


def test_short_and_missing_micro_batches_are_filled_without_weight() -> None:
    # 5 samples in micro-batches of 2 on 2 ranks: 0 and 2 for rank 0, 1 and a copy for rank 1.
    first, second = deal(0, 5, 2, 2)
    assert [(index, batch.sample_ids.tolist()) for index, batch in first] == [
        (0, [0, 1]),
        (2, [4, FILLER]),
    ]
    assert [(index, batch.sample_ids.tolist()) for index, batch in second] == [
        (1, [2, 3]),
        (3, [FILLER, FILLER]),
    ]
    assert first[1][1].loss_mask.sum(axis=1).tolist() == [4.0, 0.0]
