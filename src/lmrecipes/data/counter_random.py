"""Random numbers as pure functions of what they are for, so that no state need be kept or moved on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.uint64]
_STEP = np.uint64(0x9E3779B97F4A7C15)


def mixed(numbers: Numbers) -> Numbers:
    """Each number scattered over all 64-bit numbers, one to one (the finalizer of SplitMix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def keys(seed: int, *numbers: int | NDArray[np.integer]) -> Numbers:
    """A key for every combination of seed and numbers, broadcast over arrays."""
    with np.errstate(over="ignore"):
        key = mixed(np.atleast_1d(np.uint64(seed % 2**64)) + _STEP)
        for number in numbers:
            key = mixed((key ^ np.asarray(number).astype(np.uint64)) * _STEP + _STEP)
    return key


def uniforms(key: Numbers, n: int) -> NDArray[np.float64]:
    """`n` numbers in [0, 1) for each key, of shape (keys, n)."""
    with np.errstate(over="ignore"):
        places = key[:, None] + np.arange(1, n + 1, dtype=np.uint64) * _STEP
    return (mixed(places) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permuted(places: NDArray[np.integer], size: int, key: Numbers) -> NDArray[np.int64]:
    """Where a permutation of range(size) puts each place, by arithmetic alone.

    A Feistel network of six rounds permutes the next power of four; what falls outside is permuted on until it falls
    inside, which takes less than four turns on average.

    Args:
        places: numbers in range(size).
        size: of the permutation.
        key: which permutation; of shape (1,).
    """
    half = np.uint64(max((max(size - 1, 1).bit_length() + 1) // 2, 1))
    low = (np.uint64(1) << half) - np.uint64(1)
    rounds = [keys(int(key[0]), i) for i in range(6)]
    values = np.asarray(places).astype(np.uint64)
    outside = np.ones(values.shape, dtype=bool)
    while outside.any():
        left, right = values[outside] >> half, values[outside] & low
        for round_key in rounds:
            left, right = right, left ^ (mixed(right ^ round_key) & low)
        values[outside] = (left << half) | right
        outside = values >= np.uint64(size)
    return values.astype(np.int64)
