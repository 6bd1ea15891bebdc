"""Labelled examples of different lengths, trained on in batches of about the same length: a base of DataModules."""

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

from lmrecipes.batches import BatchPlan, Segmenting
from lmrecipes.data.prepared.cache import short_hash, writing_to
from lmrecipes.data.prepared.lock import find_or_make, locked
from lmrecipes.data.prepared.made_once import made_once
from lmrecipes.data.sampling.length_buckets import ShuffledBuckets, budgeted
from lmrecipes.data.tokenizers.base import FILE, Vocabulary
from lmrecipes.data.tokenizers.loading import load_vocabulary
from lmrecipes.data.tokenizers.sentencepiece import SentencePiece
from lmrecipes.data.tokenizers.sentencepiece_config import SentencePieceSettings, load_sentencepiece
from lmrecipes.data.tokenizers.wordpiece import WordPiece
from lmrecipes.data.tokenizers.wordpiece_config import WordPieceSettings, load_wordpiece
from lmrecipes.datamodules.cached import CachedDataModule, check_vocabulary
from lmrecipes.trainer_state import data_rank

SPLITS = ("train", "val", "test")
# The split of what a subclass's own method was given to predict; it has no file.
PREDICT = "predict"
Rows = NDArray[Any]
Report = Callable[[int, int], None]
"""Called with how many examples of how many are done."""


@dataclass(frozen=True)
class SplitExamples:
    """The examples of a split, ready to be read."""

    content: Any
    """What the subclass keeps of them."""
    lengths: NDArray[Any]
    """Tokens of each example, (examples,)."""
    batch: Callable[[Rows], Any]
    """Makes the batch of the examples of these numbers, (rows,); of none, one that does not count."""
    complaint: str = ""
    """One line about what was left out or mended, repeated whenever they are prepared; empty if nothing was."""


class BucketedDataModule(CachedDataModule):
    """Labelled examples of different lengths: a file per split, a vocabulary, and a cache of tokenized examples.

    Training batches are of examples of about the same length, and arithmetic on the optimizer's step: a resumed run
    goes on exactly, with any number of workers. Evaluation reads every example once, whatever the number of ranks, in
    batches of so many tokens.

    A subclass has arguments of its own, three class attributes (`cache_name`, `unit`, `file_format`), and

    - `prepare_split(split, report)`: its examples, found in the cache or made (`cache_entry` finds or makes them),
    - `learning_key()` and `learning_texts()`: what identifies the texts that a vocabulary is learned from, and they
      themselves; only asked for where the recipe names no vocabulary.

    `examples(split)` then gives what `prepare_split` gave, and `file(split)` the file. What is predicted comes from no
    file: the subclass puts it into `self._examples[PREDICT]`.
    """

    cache_name: ClassVar[str]
    """What names of folders in the cache begin with."""
    unit: ClassVar[str] = "examples"
    """What the examples are, for messages."""
    file_format: ClassVar[str] = "a file"
    """What a split's file should be, for the message that it is missing."""

    def __init__(
        self,
        batch: BatchPlan,
        files: Mapping[str, str | None],
        settings: WordPieceSettings | SentencePieceSettings,
        *,
        vocabulary_dir: str | None,
        cache_dir: str | None,
        num_workers: int,
        seed: int,
    ) -> None:
        """Holds the settings; nothing is read yet.

        Args:
            batch: a recipe's `batch:` group. seq_len is the longest example's; an evaluation's batch_size says how many
                examples of full length take the room of one batch over all devices, of shorter ones there are more.
            files: the file of each split; None for one that the recipe does not have.
            settings: which vocabulary to read or learn, where vocabulary_dir names none.
            vocabulary_dir: a run, or a folder, with the vocabulary to use.
            cache_dir: where prepared data goes; None: $LMRECIPES_CACHE or ~/.cache/lmrecipes.
            num_workers: processes that load batches.
            seed: for the order of training.
        """
        super().__init__(batch, vocabulary_dir=vocabulary_dir, cache_dir=cache_dir, num_workers=num_workers, seed=seed)
        self.files = {split: file for split, file in files.items() if file is not None}
        self.settings = settings
        self._vocabulary: Vocabulary | None = None
        self._examples: dict[str, SplitExamples] = {}
        self._evaluated: tuple[str, ...] = SPLITS

    # What a subclass says.

    @abstractmethod
    def prepare_split(self, split: str, report: Report) -> SplitExamples:
        """The examples of a split that has a file, found in the cache or made.

        Args:
            split: train, val or test.
            report: called with how many examples of how many are done.

        Raises:
            ValueError: if the file cannot be had or read, or is malformed.
        """

    @abstractmethod
    def learning_key(self) -> str:
        """What identifies the texts that a vocabulary is learned from, and how: other key, other vocabulary."""

    @abstractmethod
    def learning_texts(self) -> Iterable[str]:
        """The texts that a vocabulary is learned from: those of the training split."""

    # Files and what is prepared from them.

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
            key: everything that its content depends on, the vocabulary's digest included; its hash names the folder.
            write: writes the content into the folder that it is given.
        """
        return made_once(self.cache_dir / f"{self.cache_name}-{short_hash(key)}", write)

    def evaluate_with(self, vocabulary: Vocabulary, split: str) -> None:
        """From now on only this split is read, with a trained model's own vocabulary.

        Raises:
            ValueError: if the vocabulary is one of another kind.
        """
        needed = WordPiece if isinstance(self.settings, WordPieceSettings) else SentencePiece
        check_vocabulary(vocabulary, needed, "the run", self.unit)
        self._vocabulary, self._evaluated = vocabulary, (split,)

    def prepare(self, progress: bool = True) -> None:
        """Tokenizes the files of all splits unless that was done; training then needs none of them.

        Args:
            progress: whether to show a bar, on a terminal.

        Raises:
            ValueError: if a file cannot be had or read, or is malformed.
        """
        for split in self._evaluated:
            if split in self.files:
                found = self._examples.get(split) or self._prepare(split, progress)
                if found.complaint:
                    # Always from this line, so that Python says the same complaint once.
                    warnings.warn(found.complaint, stacklevel=1)

    def prepare_data(self) -> None:
        """Lightning's hook: prepares in one process per node."""
        if PREDICT not in self._examples:
            self.prepare()

    def examples(self, split: str) -> SplitExamples:
        """The examples of a split (train, val, test or predict).

        Raises:
            ValueError: if the recipe names no file, or nothing was given to predict.
        """
        if split == PREDICT and split not in self._examples:
            raise ValueError(f"there are no {self.unit} to predict; give them first")
        return self._examples.get(split) or self._prepare(split, progress=False)

    def _prepare(self, split: str, progress: bool) -> SplitExamples:
        with self._preparing(f"{split} {self.unit}", progress) as bar:
            self._examples[split] = self.prepare_split(split, lambda done, total: bar("texts", done, total))
        return self._examples[split]

    # The vocabulary.

    @property
    def vocabulary(self) -> Any:
        """The vocabulary: a run's or folder's, or one learned from the training split."""
        if self._vocabulary is None:
            self._vocabulary = self._find_vocabulary()
        return self._vocabulary

    @property
    def vocab_size(self) -> int:
        """Different tokens."""
        size: int = self.vocabulary.size
        return size

    def _find_vocabulary(self) -> Vocabulary:
        if self.vocabulary_dir is not None:
            inside = self.vocabulary_dir / "vocabulary"
            where = str(inside if inside.is_dir() else self.vocabulary_dir)
            return load_wordpiece(where) if isinstance(self.settings, WordPieceSettings) else load_sentencepiece(where)
        if self.settings.name is not None:
            return self.settings.make(lambda _: ())
        with writing_to(self.cache_dir):
            return self._learned()

    def _learned(self) -> Vocabulary:
        folder = self.cache_dir / f"{self.cache_name}-vocabulary-{short_hash(self.learning_key())}"

        def learn() -> None:
            self.settings.make(lambda _: self.learning_texts()).save(folder)

        find_or_make((folder / FILE).is_file, learn, locked(self.cache_dir / f".{folder.name}.lock"))
        return load_vocabulary(folder)

    # Batches.

    def _plan(self, split: str) -> Segmenting:
        return self.batch_plan.segmenting("test" if split == PREDICT else split)

    def training_order(self) -> ShuffledBuckets:
        """Which examples are in this rank's micro-batches."""
        rank, world_size = data_rank(self.trainer)
        return ShuffledBuckets(
            self.examples("train").lengths,
            self.batch_plan.global_batch_size,
            rank=rank,
            world_size=world_size,
            passes=self.batch_plan.accumulation(world_size),
            seed=self.seed,
        )

    def evaluation_order(self, split: str) -> list[Rows]:
        """Which examples are in this rank's batches: longest first, none of another rank's among them."""
        rank, world_size = data_rank(self.trainer)
        plan = self._plan(split)
        tokens = max(plan.batch_size // world_size, 1) * plan.seq_len
        return budgeted(self.examples(split).lengths, plan.seq_len, tokens, world_size)[rank::world_size]

    def train_batches(self) -> _Training:
        """This rank's micro-batches of examples of similar length."""
        return _Training(self.training_order(), self.examples("train").batch)

    def predict_dataloader(self) -> DataLoader[Any]:
        """What was given to predict."""
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
