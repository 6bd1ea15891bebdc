"""A rank's share of batches, by their number alone: there is no iterator state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmrecipes.trainer_state import DataRank

Ints = NDArray[Any]


class StepBatches(ABC):
    """A rank's micro-batches: number k is part k % accumulation of step k // accumulation, counted across epochs.

    A step has the same draws for any number of ranks and micro-batches.
    """

    def __init__(self, n_steps: int, *, batch_size: int, data_rank: DataRank, accumulation: int) -> None:
        """Computes the sizes.

        Args:
            n_steps: of an epoch.
            batch_size: sequences of a step over all ranks and micro-batches.
            data_rank: this rank among those that read different data.
            accumulation: micro-batches of a step.
        """
        self._n_steps, self._batch_size, self._accumulation = n_steps, batch_size, accumulation
        share = batch_size // data_rank.size
        self._size, self._begins = share // accumulation, data_rank.rank * share

    def __len__(self) -> int:
        """Micro-batches of an epoch."""
        return self._n_steps * self._accumulation

    def batch(self, k: int) -> Any:
        """Micro-batch number k, counted from the beginning of training."""
        step, part = divmod(k, self._accumulation)
        return self._draw(step * self._batch_size + self._begins + part * self._size + np.arange(self._size))

    @abstractmethod
    def _draw(self, draws: Ints) -> Any:
        """The batch of these draws, counted from the beginning of training."""


class SplitBatches(ABC):
    """Every example of a split once, in batches of nearly equal size, and as many for every rank."""

    def __init__(self, n: int, unit: str, *, batch_size: int, data_rank: DataRank) -> None:
        """Computes the sizes.

        Args:
            n: number of examples.
            unit: what they are, for the message.
            batch_size: maximum examples at once over all ranks.
            data_rank: this rank among those that read different data.

        Raises:
            ValueError: if there are fewer examples than ranks.
        """
        if n < data_rank.size:
            raise ValueError(
                f"the corpus has {n} held-out {unit}, fewer than the {data_rank.size} processes; raise data.held_out"
            )
        self._n, self._data_rank = n, data_rank
        self._n_batches = -(-n // max(batch_size, data_rank.size))

    def __len__(self) -> int:
        """Batches of a rank."""
        return self._n_batches

    def batch(self, k: int) -> Any:
        """Batch number k."""
        part, parts = (
            k % self._n_batches * self._data_rank.size + self._data_rank.rank,
            self._n_batches * self._data_rank.size,
        )
        return self._read(np.arange(part * self._n // parts, (part + 1) * self._n // parts))

    @abstractmethod
    def _read(self, positions: Ints) -> Any:
        """The batch at these positions of the split."""
