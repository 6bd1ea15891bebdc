"""Mixes weighted sources, reshuffled every epoch, as a pure function of the position."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lmrecipes.data.sampling.counter_random import keys, permuted


class Mixture:
    """Epochs in which each example of a source is seen `weight` times.

    A source's examples are drawn in successive permutations, so that with a weight of 0.5 an epoch has one half of them
    and the next the other. Memory does not grow with the sources.
    """

    def __init__(self, counts: Sequence[int], weights: Sequence[float], seed: int) -> None:
        """Computes the sizes.

        Args:
            counts: examples of each source; they are numbered source by source.
            weights: how often each source's examples are seen in an epoch.
            seed: of all permutations.
        """
        self._seed = seed
        self._counts = np.asarray(counts, dtype=np.int64)
        self._first = np.concatenate([[0], np.cumsum(self._counts)])
        draws = [max(round(count * weight), 1) if count else 0 for count, weight in zip(counts, weights, strict=True)]
        self._draws = np.concatenate([[0], np.cumsum(draws)])

    def __len__(self) -> int:
        """Draws of an epoch."""
        return int(self._draws[-1])

    def draw(self, epoch: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of the examples at positions of an epoch."""
        drawn = permuted(places, len(self), keys(self._seed, 0, epoch))
        source = np.searchsorted(self._draws, drawn, side="right") - 1
        numbers = np.empty_like(drawn)
        for i in np.unique(source).tolist():
            chosen = source == i
            per_epoch = int(self._draws[i + 1] - self._draws[i])
            turn, place = np.divmod(epoch * per_epoch + drawn[chosen] - self._draws[i], self._counts[i])
            within = np.empty_like(place)
            for one in np.unique(turn).tolist():
                of_turn = turn == one
                within[of_turn] = permuted(place[of_turn], int(self._counts[i]), keys(self._seed, 1, i, one))
            numbers[chosen] = self._first[i] + within
        return numbers
