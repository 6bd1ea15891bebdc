"""Base of all DataModules: data tokenized once into a cache, training batches by the optimizer's step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from lmrecipes.batches import BatchPlan
from lmrecipes.config.arguments import class_of
from lmrecipes.data.prepared.cache import cache_folder, writing_to
from lmrecipes.data.prepared.progress_bar import Progress, ProgressBar
from lmrecipes.data.tokenizers.base import Vocabulary
from lmrecipes.data.tokenizers.loading import load_vocabulary
from lmrecipes.data.tokenizers.sentencepiece_config import SentencePieceSettings
from lmrecipes.data.tokenizers.wordpiece import WordPiece
from lmrecipes.data.tokenizers.wordpiece_config import WordPieceSettings
from lmrecipes.datamodules.resumable_loader import Batches, FirstBatches, PositionLoader, micro_batches_done
from lmrecipes.trainer_state import data_rank


def vocabulary_settings(
    vocabulary_class: type[Vocabulary],
    wordpiece: WordPieceSettings | None,
    sentencepiece: SentencePieceSettings | None,
) -> WordPieceSettings | SentencePieceSettings:
    """Which of a DataModule's two vocabulary settings are read.

    Raises:
        ValueError: if the others are given.
    """
    is_wordpiece = issubclass(vocabulary_class, WordPiece)
    read, ignored = ("wordpiece", "sentencepiece") if is_wordpiece else ("sentencepiece", "wordpiece")
    settings = {"wordpiece": wordpiece, "sentencepiece": sentencepiece}
    if settings[ignored] is not None:
        raise ValueError(
            f"data.{ignored} is {settings[ignored]}, but this data needs a {vocabulary_class.__name__} vocabulary; "
            f"leave it out and give data.{read}"
        )
    return settings[read] or (WordPieceSettings() if is_wordpiece else SentencePieceSettings())


def tiny_vocabulary(reader: Mapping[str, Any] | None, default: Any) -> dict[str, Any]:
    """Settings of a small vocabulary for a rehearsal.

    Args:
        reader: a recipe's objective or collator, by its class path.
        default: its class if the recipe has none.
    """
    vocabulary_class = (class_of(reader["class_path"]) if reader else default).vocabulary_class
    name = "wordpiece" if issubclass(vocabulary_class, WordPiece) else "sentencepiece"
    return {"wordpiece": None, "sentencepiece": None, name: {"vocab_size": 400}}


def check_vocabulary(vocabulary: Vocabulary, needed: type[Vocabulary], owner: str, data: str) -> None:
    """Checks the kind of a vocabulary.

    Raises:
        ValueError: if the data needs another.
    """
    if not isinstance(vocabulary, needed):
        raise ValueError(
            f"the vocabulary of {owner} is of kind {vocabulary.kind}, but these {data} need "
            f"{needed.__name__}; name another data.vocabulary_dir, or another run with --init_from if it is that one's"
        )


class CachedDataModule(LightningDataModule, ABC):
    """Settings, cache folder and loaders that all DataModules share.

    Training batches are a pure function of the optimizer step: a resumed run reads exactly what the interrupted one
    would have, with any number of workers.
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
        self.batch_plan, self.num_workers, self.seed = batch, num_workers, seed
        self.vocabulary_dir = None if vocabulary_dir is None else Path(vocabulary_dir).expanduser()
        self.cache_dir = cache_folder(cache_dir)
        self.overfit_batches = 0

    def named_vocabulary(self) -> Vocabulary | None:
        """The vocabulary that vocabulary_dir names; None if it names none.

        Raises:
            ValueError: if there is none in it, or it cannot be read.
        """
        if self.vocabulary_dir is None:
            return None
        try:
            return load_vocabulary(self.vocabulary_dir)
        except ValueError as error:
            raise ValueError(f"data.vocabulary_dir: {error}") from error

    @abstractmethod
    def prepare(self, progress: bool = True) -> None:
        """Tokenizes the data unless it is in the cache; `progress` shows a bar on a terminal."""

    @abstractmethod
    def train_batches(self) -> Batches[Any]:
        """This rank's micro-batches.

        Raises:
            ValueError: if batch and ranks do not divide, or there is too little data; naming the field.
        """

    @abstractmethod
    def evaluation_loader(self, split: str) -> DataLoader[Any]:
        """This rank's batches of a split, always the same."""

    def prepare_data(self) -> None:
        """Lightning's hook: prepares in one process per node."""
        self.prepare()

    def train_dataloader(self) -> PositionLoader:
        """Micro-batches from the optimizer's step to the end of the epoch, every time it is iterated."""
        batches = self.train_batches()
        if self.overfit_batches:
            accumulation = self.batch_plan.accumulation(data_rank(self.trainer).size)
            batches = FirstBatches(batches, self.overfit_batches * accumulation)
        return PositionLoader(batches, lambda: micro_batches_done(self.trainer, self.batch_plan), self.num_workers)

    def val_dataloader(self) -> DataLoader[Any]:
        """Validation batches."""
        return self.evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Test batches."""
        return self.evaluation_loader("test")

    @contextmanager
    def _preparing(self, title: str, progress: bool) -> Iterator[Progress]:
        """Shows a progress bar, and reports a cache that cannot be written to."""
        with writing_to(self.cache_dir), ProgressBar(f"preparing {title}", progress) as report:
            yield report
