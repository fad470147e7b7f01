"""A permutation of 0 .. n-1 that is computed, not stored: a keyed Feistel network.

The network permutes the numbers below 4^w, the least such power that is at least n; a result of
n or more is put in again until it falls below n (cycle walking), which keeps it a bijection.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# Few rounds would do for large n; the tiny domains of small n need these to mix.
ROUNDS: Final = 8
# splitmix64 (Steele, Lea, Flood 2014).
GOLDEN_GAMMA: Final = 0x9E3779B97F4A7C15
MULTIPLIERS: Final = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
MASK_64: Final = (1 << 64) - 1


def permute(indices: Array, *, size: int, seed: int, epochs: Array) -> Array:
    """Where each index goes in the permutation of its epoch.

    Args:
        indices: int64 [N], each in [0, size).
        size: n.
        seed: any integer; permutations of different seeds are unrelated.
        epochs: int64 [N], from 0; permutations of different epochs are unrelated.

    Returns:
        int64 [N], each in [0, size).
    """
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    base = _mix(_mix(np.full(1, seed & MASK_64, np.uint64)) + epochs.astype(np.uint64))
    # [ROUNDS, N]: one key for each round of each index's epoch
    keys = _mix(base + np.arange(1, ROUNDS + 1, dtype=np.uint64)[:, None])
    values = _feistel(indices.astype(np.uint64), keys, half_bits)
    while (outside := np.flatnonzero(values >= size)).size:
        values[outside] = _feistel(values[outside], keys[:, outside], half_bits)
    result: Array = values.astype(np.int64)
    return result


def _feistel(values: Array, keys: Array, half_bits: int) -> Array:
    shift, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> shift, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << shift) | right


def _mix(values: Array) -> Array:
    """splitmix64's finalizer, after one step of its counter; uint64 arrays wrap silently."""
    values = values + np.uint64(GOLDEN_GAMMA)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(MULTIPLIERS[0])
    values = (values ^ (values >> np.uint64(27))) * np.uint64(MULTIPLIERS[1])
    mixed: Array = values ^ (values >> np.uint64(31))
    return mixed
