"""Samples to batches: shifted labels, masks, positions, and who computes which micro-batch.

The samples of an optimizer step are the next G counters, whatever the number of ranks. They form
micro-batches of m, which are dealt round robin to the data ranks. Every rank
runs equally many: what is missing, rows or whole micro-batches, is filled with copies that carry
no loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pangu_core.data.samples import Sample, SampleSource

Array = npt.NDArray[Any]

END_OF_DOCUMENT: Final = 9
# The id of rows that only fill up a micro-batch.
FILLER: Final = -1


@dataclass(frozen=True)
class Batch:
    """One micro-batch, as numpy arrays; B rows of T tokens."""

    tokens: Array
    """int64 [B, T]"""
    labels: Array
    """int64 [B, T]: the token after each."""
    loss_mask: Array
    """float32 [B, T]: 1 where the loss counts."""
    positions: Array
    """int64 [B, T]: within the document if documents are masked, else within the row."""
    documents: Array | None
    """int32 [B, T]: number of the document within its row; None: attention is plain causal."""
    sample_ids: Array
    """int64 [B]; -1 for a filler row, whose loss mask is all zero."""


def make_batch(
    samples: Sequence[Sample], *, document_mask: bool, eod_id: int = END_OF_DOCUMENT
) -> Batch:
    """Stack samples into one batch.

    With ``document_mask`` an end-of-document token is the last of its document: what follows has
    the next number and starts again at position 0. The loss counts at every token, the label
    behind an end of document included, as in the reference.
    """
    rows = np.stack([sample.tokens for sample in samples])
    tokens = np.ascontiguousarray(rows[:, :-1])
    positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    documents = None
    if document_mask:
        begins = np.zeros(tokens.shape, dtype=bool)
        begins[:, 1:] = tokens[:, :-1] == eod_id
        documents = np.cumsum(begins, axis=1, dtype=np.int32)
        positions = positions - np.maximum.accumulate(np.where(begins, positions, 0), axis=1)
    return Batch(
        tokens=tokens,
        labels=np.ascontiguousarray(rows[:, 1:]),
        loss_mask=np.stack([sample.loss_mask for sample in samples]),
        positions=np.ascontiguousarray(positions),
        documents=documents,
        sample_ids=np.array([sample.sample_id for sample in samples], dtype=np.int64),
    )


def micro_batches(
    source: SampleSource,
    first: int,
    *,
    global_batch_size: int,
    micro_batch_size: int,
    dp_rank: int,
    dp_size: int,
    document_mask: bool,
) -> list[tuple[int, Batch]]:
    """One data rank's share of a step: (global index of the micro-batch, batch), in order.

    The step's samples are the ``global_batch_size`` ones from the counter ``first`` on.

    All ranks get equally many batches, all of ``micro_batch_size`` rows. An index at or above
    the step's number of micro-batches marks a copy that only keeps the ranks in step.
    """
    count = -(-global_batch_size // micro_batch_size)
    batches = []
    for turn in range(-(-count // dp_size)):
        index = turn * dp_size + dp_rank
        start = (index % count) * micro_batch_size
        stop = min(start + micro_batch_size, global_batch_size)
        samples = source.samples(range(first + start, first + stop))
        if index >= count:
            samples = [_filler(sample) for sample in samples]
        samples += [_filler(samples[-1])] * (micro_batch_size - len(samples))
        batches.append((index, make_batch(samples, document_mask=document_mask)))
    return batches


def _filler(sample: Sample) -> Sample:
    return replace(sample, loss_mask=np.zeros_like(sample.loss_mask), sample_id=FILLER)
