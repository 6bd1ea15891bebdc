"""Base of all DataModules: data tokenized once into a cache, and training batches by the optimizer's step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from lmrecipes.batches import BatchPlan
from lmrecipes.data.prepared.cache import cache_folder, writing_to
from lmrecipes.data.prepared.progress_bar import Progress, ProgressBar
from lmrecipes.datamodules.resumable_loader import Batches, PositionLoader, micro_batches_done


class CachedDataModule(LightningDataModule, ABC):
    """Settings, cache folder and loaders that all DataModules share.

    Which examples are in a training batch is a pure function of the optimizer step: a resumed run reads exactly what
    the interrupted one would have, with any number of workers.
    """

    def __init__(
        self, batch: BatchPlan, *, vocabulary_dir: str | None, cache_dir: str | None, num_workers: int, seed: int
    ) -> None:
        """Stores the settings; nothing is read yet.

        Args:
            batch: a recipe's `batch:` group.
            vocabulary_dir: a saved vocabulary to use instead of making one.
            cache_dir: where prepared data goes; None: $LMRECIPES_CACHE or ~/.cache/lmrecipes.
            num_workers: processes that load training batches.
            seed: of everything random about the data.
        """
        super().__init__()
        self.batch_plan = batch
        self.vocabulary_dir = None if vocabulary_dir is None else Path(vocabulary_dir).expanduser()
        self.cache_dir = cache_folder(cache_dir)
        self.num_workers = num_workers
        self.seed = seed

    @abstractmethod
    def prepare(self, progress: bool = True) -> None:
        """Tokenizes the data unless it is in the cache; `progress` shows a bar on a terminal.

        Raises:
            ValueError: if the data cannot be loaded or read.
        """

    @abstractmethod
    def train_batches(self) -> Batches[Any]:
        """This rank's micro-batches, by their number since the beginning of training.

        Raises:
            ValueError: if batch and ranks do not divide, or there is too little data; naming the field.
        """

    @abstractmethod
    def evaluation_loader(self, split: str) -> DataLoader[Any]:
        """This rank's batches of a split to evaluate, always the same."""

    def prepare_data(self) -> None:
        """Lightning's hook: prepares in one process per node."""
        self.prepare()

    def train_dataloader(self) -> PositionLoader:
        """Micro-batches from the optimizer's step to the end of the epoch, every time it is iterated."""
        return PositionLoader(
            self.train_batches(), lambda: micro_batches_done(self.trainer, self.batch_plan), self.num_workers
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """Validation batches."""
        return self.evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Test batches."""
        return self.evaluation_loader("test")

    @contextmanager
    def _preparing(self, title: str, progress: bool) -> Iterator[Progress]:
        """Shows a progress bar; reports a cache that cannot be written to."""
        with writing_to(self.cache_dir), ProgressBar(f"preparing {title}", progress) as report:
            yield report
