"""Base of DataModules with labelled examples of different lengths, batched by length."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from lmrecipes.batches import BatchPlan, SplitPlan
from lmrecipes.data.corpora.hub import NoFileError
from lmrecipes.data.prepared.cache import short_hash, writing_to
from lmrecipes.data.prepared.lock import find_or_make
from lmrecipes.data.prepared.made_once import made_once
from lmrecipes.data.sampling.length_buckets import ShuffledBuckets, budgeted
from lmrecipes.data.tokenizers.base import FILE, Vocabulary
from lmrecipes.data.tokenizers.loading import load_vocabulary
from lmrecipes.data.tokenizers.sentencepiece import SentencePiece
from lmrecipes.data.tokenizers.sentencepiece_config import SentencePieceSettings, load_sentencepiece
from lmrecipes.data.tokenizers.wordpiece import WordPiece
from lmrecipes.data.tokenizers.wordpiece_config import WordPieceSettings, load_wordpiece
from lmrecipes.datamodules.cached import CachedDataModule, check_vocabulary
from lmrecipes.runtime.file_lock import locked
from lmrecipes.trainer_state import data_rank

SPLITS = ("train", "val", "test")
# Examples in memory, which a subclass was given to predict.
PREDICT = "predict"
Rows = NDArray[Any]
Report = Callable[[int, int], None]
"""Called with the number of finished examples and of all."""


@dataclass(frozen=True)
class SplitExamples:
    """The examples of a split, ready to be read."""

    content: Any
    """Whatever the subclass needs of them."""
    lengths: NDArray[Any]
    """Tokens of each example, (examples,)."""
    batch: Callable[[Rows], Any]
    """Makes the batch of the examples with these numbers, (rows,); without any, a batch with weight zero."""
    complaint: str = ""
    """A one-line summary of skipped or repaired examples, repeated at every preparation; empty without any."""


class BucketedDataModule(CachedDataModule):
    """Labelled examples of different lengths: a file per split, a vocabulary, and a cache of tokenized examples.

    Training batches hold examples of similar length. Evaluation reads every example once, whatever the number of ranks,
    in batches with a token budget.

    A subclass sets three class attributes (`cache_name`, `unit`, `file_format`) and implements `prepare_split`,
    `learning_key` and `learning_texts`. Examples to predict come from no file: it stores them in
    `self._examples[PREDICT]`.
    """

    cache_name: ClassVar[str]
    """Prefix of folder names in the cache."""
    unit: ClassVar[str] = "examples"
    """What the examples are, for messages."""
    file_format: ClassVar[str] = "a file"
    """What a split's file should be, for messages."""

    def __init__(
        self,
        batch: BatchPlan,
        files: Mapping[str, str | None],
        settings: WordPieceSettings | SentencePieceSettings,
        **common: Any,
    ) -> None:
        """Stores the settings; nothing is read yet.

        Args:
            batch: a recipe's `batch:` group. seq_len is the longest example's; an evaluation batch has room for
                batch_size examples of full length over all devices, and for more if they are shorter.
            files: the file of each split; None for one that the recipe does not have.
            settings: which vocabulary to read or learn without a vocabulary_dir.
            common: the arguments of `CachedDataModule`.
        """
        super().__init__(batch, **common)
        self.files = {split: file for split, file in files.items() if file is not None}
        self.settings = settings
        self._vocabulary: Vocabulary | None = None
        self._examples: dict[str, SplitExamples] = {}
        self._prepared_splits: tuple[str, ...] = SPLITS

    @abstractmethod
    def prepare_split(self, split: str, report: Report) -> SplitExamples:
        """The examples of a split (train, val or test), from the cache or made; `cache_entry` finds or makes them.

        Raises:
            ValueError: if the file cannot be loaded or read, or is malformed.
        """

    @abstractmethod
    def learning_key(self) -> str:
        """What identifies the vocabulary learned from the training split, if the recipe names none."""

    @abstractmethod
    def learning_texts(self) -> Iterable[str]:
        """The texts of the training split."""

    def file(self, split: str) -> str:
        """The file of a split.

        Raises:
            ValueError: if the recipe names none.
        """
        if split not in self.files:
            raise ValueError(f"data.{split} is not given; name {self.file_format}")
        return self.files[split]

    def cache_entry(self, key: str, write: Callable[[Path], object]) -> Path:
        """A folder in the cache, found or made.

        Args:
            key: everything that the content depends on, the vocabulary's digest included.
            write: writes the content into a folder.
        """
        return made_once(self.cache_dir / f"{self.cache_name}-{short_hash(key)}", write)

    def evaluate_with(self, vocabulary: Vocabulary, split: str) -> None:
        """From now on only this split is read, with a trained model's own vocabulary.

        Raises:
            ValueError: if the vocabulary is of another kind.
        """
        needed = WordPiece if isinstance(self.settings, WordPieceSettings) else SentencePiece
        check_vocabulary(vocabulary, needed, "the run", self.unit)
        self._vocabulary, self._prepared_splits = vocabulary, (split,)

    def prepare(self, progress: bool = True) -> None:
        """Tokenizes the files of all splits unless they are in the cache; training then needs none of them.

        Raises:
            ValueError: if a file cannot be loaded or read, or is malformed.
        """
        for split in self._prepared_splits:
            if split in self.files:
                try:
                    examples = self._examples.get(split) or self._prepare(split, progress)
                except NoFileError as error:
                    raise ValueError(f"data.{split}: {error}") from error
                if examples.complaint:
                    # Always from this line, so that Python shows the same complaint once.
                    warnings.warn(examples.complaint, stacklevel=1)

    def prepare_data(self) -> None:
        """Lightning's hook: prepares in one process per node."""
        if PREDICT not in self._examples:
            self.prepare()

    def examples(self, split: str) -> SplitExamples:
        """The examples of a split (train, val, test or predict).

        Raises:
            ValueError: if the recipe names no file, or there is nothing to predict.
        """
        if split == PREDICT and split not in self._examples:
            raise ValueError(f"there are no {self.unit} to predict; give them first")
        return self._examples.get(split) or self._prepare(split, progress=False)

    def _prepare(self, split: str, progress: bool) -> SplitExamples:
        with self._preparing(f"{split} {self.unit}", progress) as bar:
            self._examples[split] = self.prepare_split(split, lambda done, total: bar("texts", done, total))
        return self._examples[split]

    @property
    def vocabulary(self) -> Any:
        """The vocabulary of a run or folder, or one learned from the training split."""
        if self._vocabulary is None:
            self._vocabulary = self._load_or_learn()
        return self._vocabulary

    @property
    def vocab_size(self) -> int:
        """Different tokens."""
        size: int = self.vocabulary.size
        return size

    def _load_or_learn(self) -> Vocabulary:
        if self.vocabulary_dir is not None:
            inside = self.vocabulary_dir / "vocabulary"
            name = str(inside if inside.is_dir() else self.vocabulary_dir)
            load = load_wordpiece if isinstance(self.settings, WordPieceSettings) else load_sentencepiece
            try:
                return load(name)
            except ValueError as error:
                raise ValueError(f"data.vocabulary_dir: {error}") from error
        if self.settings.name is not None:
            return self.settings.make(lambda _: ())
        with writing_to(self.cache_dir):
            folder = self.cache_dir / f"{self.cache_name}-vocabulary-{short_hash(self.learning_key())}"

            def learn() -> None:
                self.settings.make(lambda _: self.learning_texts()).save(folder)

            find_or_make((folder / FILE).is_file, learn, locked(self.cache_dir / f".{folder.name}.lock"))
            return load_vocabulary(folder)

    def _plan(self, split: str) -> SplitPlan:
        return self.batch_plan.for_split("test" if split == PREDICT else split)

    def training_order(self) -> ShuffledBuckets:
        """The examples in this rank's micro-batches."""
        rank, world_size = data_rank(self.trainer)
        return ShuffledBuckets(
            self.examples("train").lengths,
            self.batch_plan.global_batch_size,
            rank=rank,
            world_size=world_size,
            accumulation=self.batch_plan.accumulation(world_size),
            seed=self.seed,
        )

    def evaluation_order(self, split: str) -> list[Rows]:
        """The examples in this rank's batches, longest first; no two ranks share one."""
        rank, world_size = data_rank(self.trainer)
        plan = self._plan(split)
        tokens = max(plan.batch_size // world_size, 1) * plan.seq_len
        return budgeted(self.examples(split).lengths, plan.seq_len, tokens, world_size)[rank::world_size]

    def train_batches(self) -> _Training:
        """This rank's micro-batches of examples of similar length."""
        return _Training(self.training_order(), self.examples("train").batch)

    def predict_dataloader(self) -> DataLoader[Any]:
        """The examples to predict."""
        return self.evaluation_loader(PREDICT)

    def evaluation_loader(self, split: str) -> DataLoader[Any]:
        """A split's batches, longest examples first."""
        batches = _Evaluation(self.evaluation_order(split), self.examples(split).batch)
        return DataLoader(batches, batch_size=None, num_workers=self.num_workers, generator=torch.Generator())


class _Training:
    def __init__(self, order: ShuffledBuckets, batch: Callable[[Rows], Any]) -> None:
        self._order, self._batch = order, batch

    def __len__(self) -> int:
        return len(self._order)

    def batch(self, k: int) -> Any:
        return self._batch(self._order.rows(k))


class _Evaluation(Dataset[Any]):
    def __init__(self, order: list[Rows], batch: Callable[[Rows], Any]) -> None:
        self._order, self._batch = order, batch

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, number: int) -> Any:
        return self._batch(np.asarray(self._order[number]))
