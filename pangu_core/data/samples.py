"""Training samples: which stretch of tokens the n-th sample of a run is.

A sample is ``sequence_length + 1`` tokens; consecutive stretches share one token, so that each
token is a label once. Which one comes n-th is a function of (seed, n) alone: nothing is built,
nothing is stored, and the state of a run's data is one integer, whatever the number of ranks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt

from pangu_core.data.permutation import permute
from pangu_core.data.reference_order import ReferenceIndex, build_reference_index
from pangu_core.data.token_files import TokenFile
from pangu_core.errors import ConfigError

Split = Literal["train", "valid", "test"]
Array = npt.NDArray[Any]

SPLITS: Final[tuple[Split, ...]] = ("train", "valid", "test")


@dataclass(frozen=True)
class Sample:
    """One training sequence."""

    tokens: Array
    """int64 [T + 1]; inputs are all but the last, labels all but the first."""
    loss_mask: Array
    """float32 [T], 1 where the loss of that label counts."""
    sample_id: int
    """epoch x samples_per_epoch + stretch: unique in a run, the same whatever reads it."""


class SampleSource(Protocol):
    """Samples by their global counter, which runs from 0 through all epochs of a run."""

    @property
    def sequence_length(self) -> int:
        """T: tokens of a sample's input."""

    @property
    def samples_per_epoch(self) -> int:
        """Samples before the first repeats; 0 if the split is too short for one."""

    def samples(self, counters: Sequence[int]) -> list[Sample]:
        """The samples at these counters.

        Raises:
            ConfigError: the split holds no sample, or none with such a counter.
        """


@dataclass(frozen=True)
class StretchSource:
    """Stretches of one split, in a shuffled order that changes every epoch, or in plain order."""

    file: TokenFile
    start: int
    """Token of the file where the split begins."""
    stop: int
    """Token of the file where the split ends."""
    sequence_length: int
    seed: int | None
    """None: plain order, the same in every epoch."""

    @property
    def samples_per_epoch(self) -> int:
        """(tokens - 1) // T; up to T tokens at the end of the split are left out."""
        return max(0, (self.stop - self.start - 1) // self.sequence_length)

    def samples(self, counters: Sequence[int]) -> list[Sample]:
        """The samples at these counters."""
        self.require_samples()
        epochs, stretches = np.divmod(np.asarray(counters, np.int64), self.samples_per_epoch)
        if self.seed is not None:
            stretches = permute(
                stretches, size=self.samples_per_epoch, seed=self.seed, epochs=epochs
            )
        ids = epochs * self.samples_per_epoch + stretches
        return [
            self._read(int(stretch), int(sample_id))
            for stretch, sample_id in zip(stretches, ids, strict=True)
        ]

    def require_samples(self) -> None:
        """Refuse a split that is too short for one sample.

        Raises:
            ConfigError: it is.
        """
        if not self.samples_per_epoch:
            raise ConfigError(
                f"{self.file.prefix}, tokens {self.start} to {self.stop}",
                seen=f"{self.stop - self.start} tokens",
                rule=f"must hold sequenceLength + 1 = {self.sequence_length + 1} tokens or more",
                fix="add text, give this split a larger share, or train on shorter sequences",
            )

    def _read(self, stretch: int, sample_id: int) -> Sample:
        begin = self.start + stretch * self.sequence_length
        end = begin + self.sequence_length + 1
        return _sample([(begin, end)], self.file, sample_id)


@dataclass(frozen=True)
class ReferenceSource:
    """Samples in the order of Megatron's index files."""

    file: TokenFile
    index: ReferenceIndex
    sequence_length: int

    @property
    def samples_per_epoch(self) -> int:
        """All that were indexed: the reference shuffles its epochs together."""
        return len(self.index.shuffle)

    def samples(self, counters: Sequence[int]) -> list[Sample]:
        """The samples at these counters; the id is the place before shuffling."""
        if counters and max(counters) >= self.samples_per_epoch:
            raise ConfigError(
                str(self.file.prefix),
                seen=f"sample {max(counters)}",
                rule=f"must be one of the {self.samples_per_epoch} indexed samples",
                fix="raise train.steps, or use data.order: shuffled, which has no end",
            )
        return [self._read(int(self.index.shuffle[counter])) for counter in counters]

    def _read(self, place: int) -> Sample:
        """Tokens from the sample's first to the next one's first, over the items in between."""
        (first, offset), (last, end) = self.index.sample[place : place + 2].tolist()
        items = [int(item) for item in self.index.document[first : last + 1]]
        spans = [(self.file.item_start(item), self.file.item_start(item + 1)) for item in items]
        spans[-1] = (spans[-1][0], spans[-1][0] + end + 1)
        spans[0] = (spans[0][0] + offset, spans[0][1])
        return _sample(spans, self.file, place)


def open_samples(
    file: TokenFile,
    *,
    split: Split,
    shares: tuple[float, float, float],
    order: Literal["shuffled", "reference"],
    sequence_length: int,
    seed: int,
    num_samples: int,
) -> SampleSource:
    """The samples of one split.

    In the default order the training split is shuffled and the others are read in plain order.

    Args:
        file: the tokens.
        split: which part.
        shares: of the three parts (DataSettings.shares).
        order: shuffled or reference (DataSettings.order).
        sequence_length: T.
        seed: of the order.
        num_samples: samples that the run will draw; read by the reference's order only, whose
            index covers exactly the epochs that are needed.

    Raises:
        ConfigError: the training split is too short for one sample. The others may be empty.
    """
    bounds = split_bounds(file.num_items, shares)
    place = SPLITS.index(split)
    first, last = bounds[place], bounds[place + 1]
    if order == "reference":
        index = build_reference_index(
            file,
            name=split,
            items=(first, last),
            num_samples=num_samples,
            sequence_length=sequence_length,
            seed=seed,
        )
        return ReferenceSource(file, index, sequence_length)
    source = StretchSource(
        file=file,
        start=file.item_start(first),
        stop=file.item_start(last),
        sequence_length=sequence_length,
        seed=seed if split == "train" else None,
    )
    if split == "train":
        source.require_samples()
    return source


def split_bounds(num_items: int, shares: tuple[float, float, float]) -> tuple[int, int, int, int]:
    """Items before each split and after the last, with the reference's rounding.

    Each share is rounded on its own, and the excess of the last bound is taken from all bounds.
    """
    bounds = [0]
    for share in shares:
        bounds.append(bounds[-1] + round(share * num_items))
    excess = bounds[-1] - num_items
    # The reference gives a negative bound to a split of share 0 in front of two odd halves.
    train, valid, test = (max(0, bound - excess) for bound in bounds[1:])
    return 0, train, valid, test


def _sample(spans: Sequence[tuple[int, int]], file: TokenFile, sample_id: int) -> Sample:
    tokens = np.concatenate([file.tokens(start, stop) for start, stop in spans])
    mask = np.concatenate([file.mask(start, stop) for start, stop in spans])
    return Sample(tokens.astype(np.int64), mask[1:].astype(np.float32), sample_id)
