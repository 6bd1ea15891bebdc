"""A data loader that starts at the optimizer's step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from lmrecipes.batches import BatchPlan
from lmrecipes.trainer_state import data_rank

Batch_co = TypeVar("Batch_co", covariant=True)


class Batches(Protocol[Batch_co]):
    """Batches by number, epoch after epoch."""

    def __len__(self) -> int:
        """Batches of an epoch."""

    def batch(self, k: int) -> Batch_co:
        """Batch number k, counted from the start of training."""


class FirstBatches:
    """The first batches over and over, to see whether a model can overfit them."""

    def __init__(self, batches: Batches[Any], n: int) -> None:
        self.batches, self.n = batches, min(n, len(batches))

    def __len__(self) -> int:
        """Batches until they repeat."""
        return self.n

    def batch(self, k: int) -> Any:
        """Batch number k modulo n."""
        return self.batches.batch(k % self.n)


class _Positions(IterableDataset[Any]):
    """Batches from `start` to the end of its epoch, every n-th of them in each of n workers."""

    def __init__(self, batches: Batches[Any]) -> None:
        self.batches = batches
        self.start = 0

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        skip, stride = (0, 1) if worker is None else (worker.id, worker.num_workers)
        end = (self.start // len(self.batches) + 1) * len(self.batches)
        return map(self.batches.batch, range(self.start + skip, end, stride))


class PositionLoader(DataLoader[Any]):
    """A DataLoader that starts at the optimizer's step and does not consume torch's random state.

    It has no length: an epoch ends where the batches end, also if training was resumed in the middle of one.
    """

    def __init__(self, batches: Batches[Any], position: Callable[[], int] = lambda: 0, num_workers: int = 0) -> None:
        """Takes batches, and the number of the first one, which is called for at every iteration."""
        self._position = position
        self.batches_per_epoch = len(batches)
        super().__init__(_Positions(batches), batch_size=None, num_workers=num_workers, generator=torch.Generator())

    def __iter__(self) -> Any:
        """Batches from the current position to the end of the epoch."""
        assert isinstance(self.dataset, _Positions)
        self.dataset.start = self._position()
        return super().__iter__()


def micro_batches_done(trainer: Any, plan: BatchPlan) -> int:
    """Micro-batches of a rank that the optimizer's steps so far have consumed."""
    if trainer is None:
        return 0
    steps: int = trainer.global_step
    return steps * plan.accumulation(data_rank(trainer).size)
