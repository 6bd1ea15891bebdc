"""Interleaves sources in fixed proportions, each read cyclically, as a pure function of the position."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmrecipes.data.sampling.counter_random import keys, permuted

Ints = NDArray[Any]
_BITS = 40
_SOURCE, _ORDER = 0, 1


class Interleaving:
    """An infinite order of the rows of several sources.

    Any range of it holds the sources in their shares. Every row of a source is drawn once before any is drawn again,
    each time in another order. The n-th draw depends on n alone.
    """

    def __init__(self, counts: Sequence[int], shares: Sequence[float], seed: int) -> None:
        """Computes the shares.

        Args:
            counts: rows of each source, 1 or more; rows are numbered source by source.
            shares: of each source among the draws, with a sum of 1.
            seed: of the order.
        """
        self._seed = seed
        self._counts = list(counts)
        self._first = np.cumsum([0, *counts])
        # Integers, so that sums stay exact.
        self._edges = [round(share * 2**_BITS) for share in np.cumsum([0.0, *shares])]
        self._edges[-1] = 2**_BITS
        least = min(b - a for a, b in zip(self._edges[:-1], self._edges[1:], strict=True))
        # Each source appears several times in a block.
        self._block = max(1024, math.ceil(4 * 2**_BITS / max(least, 1)))
        self._known: tuple[int, Ints, Ints] = (-1, np.empty(0), np.empty(0))

    def _drawn(self, n: int) -> Ints:
        """Number of draws of each source among the first n."""
        counts: Ints = np.diff([edge * n >> _BITS for edge in self._edges])
        return counts

    def _sources(self, block: int) -> tuple[Ints, Ints]:
        """The source of each sample in a block, and its index within that source."""
        if self._known[0] != block:
            before, until = self._drawn(block * self._block), self._drawn((block + 1) * self._block)
            order = permuted(np.arange(self._block), self._block, keys(self._seed, _SOURCE, block))
            sources = np.repeat(np.arange(len(before)), until - before)[order]
            turns = np.empty(self._block, dtype=np.int64)
            for i, (a, b) in enumerate(zip(before.tolist(), until.tolist(), strict=True)):
                turns[sources == i] = np.arange(a, b)
            self._known = (block, sources, turns)
        return self._known[1:]

    def draw(self, numbers: Ints) -> Ints:
        """Rows of the draws with these numbers."""
        result = np.empty(len(numbers), dtype=np.int64)
        blocks, places = np.divmod(numbers, self._block)
        for block in np.unique(blocks).tolist():
            within = np.flatnonzero(blocks == block)
            sources, turns = (x[places[within]] for x in self._sources(block))
            for i in np.unique(sources).tolist():
                of_source = sources == i
                turn, place = np.divmod(turns[of_source], self._counts[i])
                rows = np.empty_like(place)
                for one in np.unique(turn).tolist():
                    key = keys(self._seed, _ORDER, i, one)
                    rows[turn == one] = permuted(place[turn == one], self._counts[i], key)
                result[within[of_source]] = self._first[i] + rows
        return result
