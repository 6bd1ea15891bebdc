"""A rank's share of batches, by their number alone: there is no iterator state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmrecipes.trainer_state import DataRank

Ints = NDArray[Any]


class StepBatches(ABC):
    """A rank's micro-batches: number k is chunk k % n_chunks of step k // n_chunks, counted across epochs.

    A step has the same draws however many ranks and chunks it is spread over.
    """

    def __init__(self, n_steps: int, *, batch_size: int, place: DataRank, n_chunks: int) -> None:
        """Computes the sizes.

        Args:
            n_steps: of an epoch.
            batch_size: sequences of a step over all ranks and chunks.
            place: this rank among those that read different data.
            n_chunks: micro-batches of a step.
        """
        self._n_steps, self._batch_size, self._n_chunks = n_steps, batch_size, n_chunks
        share = batch_size // place.size
        self._size, self._begins = share // n_chunks, place.rank * share

    def __len__(self) -> int:
        """Micro-batches of an epoch."""
        return self._n_steps * self._n_chunks

    def batch(self, k: int) -> Any:
        """Micro-batch number k, counted from the beginning of training."""
        step, chunk = divmod(k, self._n_chunks)
        return self._draw(step * self._batch_size + self._begins + chunk * self._size + np.arange(self._size))

    @abstractmethod
    def _draw(self, draws: Ints) -> Any:
        """The batch of these draws, counted from the beginning of training."""


class SplitBatches(ABC):
    """Every example of a split once, in batches of nearly equal size, and as many for every rank."""

    def __init__(self, n: int, unit: str, *, batch_size: int, place: DataRank) -> None:
        """Computes the sizes.

        Args:
            n: number of examples.
            unit: what they are, for the message.
            batch_size: maximum examples at once over all ranks.
            place: this rank among those that read different data.

        Raises:
            ValueError: if there are fewer examples than ranks.
        """
        if n < place.size:
            raise ValueError(
                f"the corpus has {n} held-out {unit}, fewer than the {place.size} processes; raise data.held_out"
            )
        self._n, self._place = n, place
        self._n_batches = -(-n // max(batch_size, place.size))

    def __len__(self) -> int:
        """Batches of a rank."""
        return self._n_batches

    def batch(self, k: int) -> Any:
        """Batch number k."""
        part, parts = k % self._n_batches * self._place.size + self._place.rank, self._n_batches * self._place.size
        return self._read(np.arange(part * self._n // parts, (part + 1) * self._n // parts))

    @abstractmethod
    def _read(self, positions: Ints) -> Any:
        """The batch at these positions of the split."""
