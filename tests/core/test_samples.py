"""Which tokens the n-th sample holds, in every order and split."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pangu_core.data.samples import SampleSource, open_samples, split_bounds
from pangu_core.data.token_files import TokenFile, TokenFileWriter
from pangu_core.errors import ConfigError

ALL = (1.0, 0.0, 0.0)


def write(folder: Path, sizes: list[int], *, masked: bool = False) -> TokenFile:
    """Items of these sizes that hold 0, 1, 2, ..., so that a token tells its place."""
    place = 0
    with TokenFileWriter(folder / "t", vocab_size=65_000, with_mask=masked) as writer:
        for size in sizes:
            tokens = range(place, place + size)
            writer.add(tokens, [token % 2 for token in tokens] if masked else None)
            writer.end_document()
            place += size
    return TokenFile.open(folder / "t")


def opened(file: TokenFile, length: int, **settings: Any) -> SampleSource:
    values = {"split": "train", "shares": ALL, "order": "shuffled", "seed": 1, "num_samples": 4}
    return open_samples(file, sequence_length=length, **{**values, **settings})


def stretches(source: SampleSource, counters: range) -> list[int]:
    """First token of each sample, in units of T."""
    return [int(s.tokens[0]) // source.sequence_length for s in source.samples(counters)]


@settings(deadline=None, max_examples=40)
@given(num_tokens=st.integers(2, 300), length=st.integers(1, 40))
def test_an_epoch_holds_every_label_once(
    num_tokens: int, length: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    length = min(length, num_tokens - 1)
    source = opened(write(tmp_path_factory.mktemp("s"), [num_tokens]), length)
    n = (num_tokens - 1) // length
    assert source.samples_per_epoch == n
    for epoch in range(2):
        samples = source.samples(range(epoch * n, (epoch + 1) * n))
        labels = [label for sample in samples for label in sample.tokens[1:].tolist()]
        assert sorted(labels) == list(range(1, n * length + 1))
        assert all(sample.tokens.shape == (length + 1,) for sample in samples)
        assert sorted(sample.sample_id - epoch * n for sample in samples) == list(range(n))


def test_tokens_are_consecutive_and_of_the_promised_types(tmp_path: Path) -> None:
    sample = opened(write(tmp_path, [30, 30]), 10).samples([3])[0]
    assert np.diff(sample.tokens).tolist() == [1] * 10
    assert (sample.tokens.dtype, sample.loss_mask.dtype) == (np.int64, np.float32)
    assert sample.loss_mask.tolist() == [1.0] * 10


def test_the_order_depends_on_seed_and_epoch_only(tmp_path: Path) -> None:
    source = opened(write(tmp_path, [1_001]), 10)
    orders = [stretches(source, range(start, start + 100)) for start in (0, 100, 200)]
    orders.append(stretches(opened(source.file, 10, seed=2), range(100)))
    assert all(first != second for i, first in enumerate(orders) for second in orders[:i])
    across = stretches(source, range(95, 105))
    assert across == orders[0][95:] + orders[1][:5]


def test_validation_is_read_in_plain_order_again_and_again(tmp_path: Path) -> None:
    file = write(tmp_path, [10] * 10)
    source = opened(file, 10, split="valid", shares=(0.5, 0.5, 0.0))
    samples = source.samples(range(8))
    assert source.samples_per_epoch == 4
    assert [int(sample.tokens[0]) for sample in samples] == [50, 60, 70, 80, 50, 60, 70, 80]
    assert [sample.sample_id for sample in samples] == list(range(8))


def test_splits_share_no_token(tmp_path: Path) -> None:
    file, seen = write(tmp_path, [7, 20, 3, 40, 11, 9, 25, 5]), []
    for split in ("train", "valid", "test"):
        source = opened(file, 4, split=split, shares=(0.5, 0.25, 0.25))
        samples = source.samples(range(source.samples_per_epoch))
        seen += [{token for sample in samples for token in sample.tokens.tolist()}]
    assert [min(tokens) for tokens in seen] == [0, 70, 90]
    assert sum(map(len, seen)) == len(set.union(*seen))


@pytest.mark.parametrize("order", ["shuffled", "reference"])
def test_the_mask_belongs_to_the_label(order: str, tmp_path: Path) -> None:
    source = opened(write(tmp_path, [9, 30, 8, 14], masked=True), 10, order=order)
    for sample in source.samples(range(4)):
        assert sample.loss_mask.tolist() == (sample.tokens[1:] % 2).tolist()


@pytest.mark.parametrize(
    ("num_items", "shares", "bounds"),
    [
        (1_000, (0.949, 0.05, 0.001), (0, 949, 999, 1_000)),
        (10, (0.949, 0.05, 0.001), (0, 10, 10, 10)),  # 9 + 0 + 0: all bounds grow by 1
        (3, (0.5, 0.5, 0.0), (0, 1, 3, 3)),  # 2 + 2 + 0: all bounds shrink by 1
        (1, (0.949, 0.05, 0.001), (0, 1, 1, 1)),
        (3, (0.0, 0.5, 0.5), (0, 0, 1, 3)),  # never below 0
    ],
)
def test_splits_are_rounded_as_the_reference_does(
    num_items: int, shares: tuple[float, float, float], bounds: tuple[int, ...]
) -> None:
    assert split_bounds(num_items, shares) == bounds


def test_a_split_shorter_than_a_sample_says_so(tmp_path: Path) -> None:
    file = write(tmp_path, [10])
    source = opened(file, 10, split="valid", shares=(0.0, 1.0, 0.0))
    assert source.samples_per_epoch == 0
    with pytest.raises(ConfigError, match=r"10 tokens: must hold sequenceLength \+ 1 = 11"):
        source.samples([0])
    with pytest.raises(ConfigError, match="10 tokens: must hold"):
        opened(file, 10)


def test_data_needs_no_torch() -> None:
    code = "import sys, pangu_core.data.batches; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
