"""The order of Megatron's GPT dataset, from its three index files, built here if they are missing.

    doc_idx      int32 [E x items]: the split's items, E epochs of them, shuffled as a whole
    sample_idx   int32 [samples + 1, 2]: place in doc_idx and offset where each sample begins
    shuffle_idx  uint32 (int64 when huge) [samples]: which sample comes n-th

Consecutive samples share one token. Both shuffles draw from one RandomState(seed).
"""

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pangu_core.data.token_files import TokenFile, sibling
from pangu_core.errors import ConfigError

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ReferenceIndex:
    """The three arrays, mapped from their files."""

    document: Array
    sample: Array
    shuffle: Array


def build_reference_index(
    file: TokenFile,
    *,
    name: str,
    items: tuple[int, int],
    num_samples: int,
    sequence_length: int,
    seed: int,
) -> ReferenceIndex:
    """The index of items ``items[0]`` to ``items[1]``; read from its files, or built and written.

    Files older than the token file are built again. Each is replaced as a whole, so ranks that
    build it at the same time do each other no harm.

    Raises:
        ConfigError: the split cannot fill one sample.
    """
    stem = f"_{name}_indexmap_{num_samples}ns_{sequence_length}sl_{seed}s"
    paths = [
        sibling(file.prefix, f"{stem}_{kind}_idx.npy") for kind in ("doc", "sample", "shuffle")
    ]
    if not _are_newer(paths, sibling(file.prefix, ".idx")):
        sizes = np.asarray(file.sizes)
        arrays = build_arrays(
            sizes, items=items, num_samples=num_samples, sequence_length=sequence_length, seed=seed
        )
        for path, array in zip(paths, arrays, strict=True):
            _save(path, array)
    return ReferenceIndex(*(np.load(path, mmap_mode="r") for path in paths))


def build_arrays(
    sizes: Array, *, items: tuple[int, int], num_samples: int, sequence_length: int, seed: int
) -> tuple[Array, Array, Array]:
    """doc_idx, sample_idx and shuffle_idx; ``sizes`` holds the tokens of each item of the file."""
    first, last = items
    num_tokens = int(sizes[first:last].sum(dtype=np.int64))
    if num_tokens < 2:
        raise ConfigError(
            f"items {first} to {last}",
            seen=f"{num_tokens} tokens",
            rule="must hold at least two tokens to be sampled from",
            fix="add text or give this split a larger share (data.split)",
        )
    # The least number of epochs with (epochs x tokens - 1) // T >= num_samples.
    num_epochs = max(1, -(-(num_samples * sequence_length + 1) // num_tokens))
    random = np.random.RandomState(seed)
    doc_idx = np.tile(np.arange(first, last, dtype=np.int32), num_epochs)
    random.shuffle(doc_idx)
    total = (num_epochs * num_tokens - 1) // sequence_length
    sample_idx = _sample_index(sizes[doc_idx], total=total, sequence_length=sequence_length)
    small = total < np.iinfo(np.uint32).max - 1
    shuffle_idx = np.arange(total, dtype=np.uint32 if small else np.int64)
    random.shuffle(shuffle_idx)
    return doc_idx, sample_idx, shuffle_idx


def _sample_index(sizes: Array, *, total: int, sequence_length: int) -> Array:
    """Sample i begins at token i x T of the shuffled items: which item that is, and where in it."""
    ends = np.cumsum(sizes, dtype=np.int64)
    starts = np.arange(total + 1, dtype=np.int64) * sequence_length
    places = np.searchsorted(ends, starts, side="right")
    index = np.stack([places, starts - (ends[places] - sizes[places])], axis=1).astype(np.int32)
    index[0] = 0  # an empty first item is named all the same, as the reference does
    return index


def _are_newer(paths: list[Path], than: Path) -> bool:
    limit = than.stat().st_mtime_ns
    return all(path.exists() and path.stat().st_mtime_ns >= limit for path in paths)


def _save(path: Path, array: Array) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with temporary.open("wb") as file:
        np.save(file, array)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
