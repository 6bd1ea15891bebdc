"""Counter-based random numbers: pure functions of a key, without state."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.uint64]
# Two rounds of shift and multiply.
_ROUNDS = 3
# The remaining bits cannot overflow when a row or column index is added.
_HIGH = np.uint64(8)
_STEP = np.uint64(0x9E3779B97F4A7C15)


def mixed(numbers: Numbers) -> Numbers:
    """A bijective hash of 64-bit numbers (the finalizer of SplitMix64, Steele et al. 2014)."""
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
        counters = key[:, None] + np.arange(1, n + 1, dtype=np.uint64) * _STEP
    return (mixed(counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permuted(positions: NDArray[np.integer], size: int, key: Numbers) -> NDArray[np.int64]:
    """The images of some positions under a permutation of range(size), without storing it.

    Positions are arranged in a nearly square rectangle; a Feistel network shifts row and column in turn, each by a
    random function of the other. The few results beyond `size` are permuted again until they are within.

    Args:
        positions: numbers in range(size).
        size: of the permutation.
        key: which permutation; of shape (1,).
    """
    n_rows = np.uint64(max(math.isqrt(size), 1))
    n_columns = np.uint64(-(-size // int(n_rows)))
    rounds = keys(int(key[0]), np.arange(2 * _ROUNDS, dtype=np.uint64))
    values = np.asarray(positions).astype(np.uint64)
    outside: Any = slice(None)
    while True:
        rows, columns = np.divmod(values[outside], n_columns)
        for by_column, by_row in zip(rounds[::2], rounds[1::2], strict=True):
            rows = (rows + (mixed(columns ^ by_column) >> _HIGH)) % n_rows
            columns = (columns + (mixed(rows ^ by_row) >> _HIGH)) % n_columns
        values[outside] = rows * n_columns + columns
        (outside,) = np.nonzero(values >= np.uint64(size))
        if not len(outside):
            return values.astype(np.int64)
