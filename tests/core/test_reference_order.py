"""The reference's index files, against the documented loop written out plainly."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pangu_core.data.reference_order import build_arrays
from pangu_core.data.samples import SampleSource, open_samples
from pangu_core.data.token_files import TokenFile, TokenFileWriter
from pangu_core.errors import ConfigError


def walk(sizes: list[int], total: int, length: int) -> list[list[int]]:
    """Place and offset of each sample, token by token in spirit: the documented loop."""
    index, place, offset = [[0, 0]], 0, 0
    while len(index) <= total:
        remaining = length + 1
        while remaining:
            left = sizes[place] - offset
            if left >= remaining:
                offset, remaining = offset + remaining - 1, 0
            else:
                place, offset, remaining = place + 1, 0, remaining - left
        index.append([place, offset])
    return index


def write(prefix: Path, sizes: list[int]) -> TokenFile:
    tokens = iter(range(sum(sizes)))
    with TokenFileWriter(prefix, vocab_size=40_000) as writer:
        for size in sizes:
            writer.add([next(tokens) for _ in range(size)])
            writer.end_document()
    return TokenFile.open(prefix)


def opened(file: TokenFile, num_samples: int, length: int = 4) -> SampleSource:
    return open_samples(
        file,
        split="train",
        shares=(1.0, 0.0, 0.0),
        order="reference",
        sequence_length=length,
        seed=1234,
        num_samples=num_samples,
    )


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(lambda s: sum(s) > 1),
    num_samples=st.integers(1, 40),
    length=st.integers(1, 7),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_arrays_are_those_of_the_documented_loop(
    sizes: list[int], num_samples: int, length: int, seed: int
) -> None:
    items = (0, len(sizes))
    doc, sample, shuffle = build_arrays(
        np.array(sizes, np.int32),
        items=items,
        num_samples=num_samples,
        sequence_length=length,
        seed=seed,
    )
    epochs = 1
    while (epochs * sum(sizes) - 1) // length < num_samples:
        epochs += 1
    total = (epochs * sum(sizes) - 1) // length
    random = np.random.RandomState(seed)
    expected = np.array(list(range(len(sizes))) * epochs, np.int32)
    random.shuffle(expected)
    assert (doc.tolist(), doc.dtype) == (expected.tolist(), np.int32)
    assert sample.tolist() == walk([sizes[i] for i in expected], total, length)
    expected = np.arange(total, dtype=np.uint32)
    random.shuffle(expected)
    assert (shuffle.tolist(), shuffle.dtype) == (expected.tolist(), np.uint32)


def test_a_sample_runs_across_items_in_their_shuffled_order(tmp_path: Path) -> None:
    sizes = [3, 1, 6, 2, 5]
    file = write(tmp_path / "t", sizes)
    source = opened(file, num_samples=8)
    starts = np.cumsum([0, *sizes])
    order = np.load(tmp_path / "t_train_indexmap_8ns_4sl_1234s_doc_idx.npy")
    stream = [token for i in order for token in range(starts[i], starts[i + 1])]
    for sample in source.samples(range(source.samples_per_epoch)):
        begin = sample.sample_id * 4
        assert sample.tokens.tolist() == stream[begin : begin + 5]
    assert sorted(s.sample_id for s in source.samples(range(8))) == list(range(8))


def test_the_index_is_built_once_and_again_for_newer_tokens(tmp_path: Path) -> None:
    file = write(tmp_path / "t", [30, 30])
    opened(file, num_samples=5)
    names = sorted(path.name for path in tmp_path.glob("*.npy"))
    stem = "t_train_indexmap_5ns_4sl_1234s"
    assert names == [f"{stem}_{kind}_idx.npy" for kind in ("doc", "sample", "shuffle")]
    before = (tmp_path / names[0]).stat().st_ino
    opened(file, num_samples=5)
    assert (tmp_path / names[0]).stat().st_ino == before
    os.utime(tmp_path / "t.idx", ns=(2**62, 2**62))
    opened(file, num_samples=5)
    assert (tmp_path / names[0]).stat().st_ino != before


def test_a_counter_beyond_the_index_is_refused(tmp_path: Path) -> None:
    source = opened(write(tmp_path / "t", [30]), num_samples=5)
    with pytest.raises(ConfigError, match="sample 7: must be one of the 7 indexed"):
        source.samples([7])


def test_a_split_without_tokens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="1 tokens: must hold at least two"):
        opened(write(tmp_path / "t", [1]), num_samples=5)
