"""Training batches by their number, from where training stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info


class Numbered(Protocol):
    """Micro-batches of training by their number, counted on from epoch to epoch."""

    def __len__(self) -> int:
        """Micro-batches of an epoch."""

    def batch(self, k: int) -> Any:
        """Micro-batch number k."""


class _Positions(IterableDataset[Any]):
    """Micro-batches from `start` to the end of its epoch, every n-th of them in each of n workers."""

    def __init__(self, source: Numbered) -> None:
        self.source = source
        self.start = 0

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        skip, stride = (0, 1) if worker is None else (worker.id, worker.num_workers)
        end = (self.start // len(self.source) + 1) * len(self.source)
        return map(self.source.batch, range(self.start + skip, end, stride))


class StreamLoader(DataLoader[Any]):
    """A DataLoader that begins where training stands, and leaves torch's random numbers alone.

    It has no length: an epoch ends where the streams end, also for a training that was resumed in the middle of one.
    """

    def __init__(self, source: Numbered, position: Callable[[], int], num_workers: int) -> None:
        self._position = position
        self.batches_per_epoch = len(source)
        super().__init__(_Positions(source), batch_size=None, num_workers=num_workers, generator=torch.Generator())

    def __iter__(self) -> Any:
        """Micro-batches from the current position to the end of the epoch."""
        assert isinstance(self.dataset, _Positions)
        self.dataset.start = self._position()
        return super().__iter__()
