"""Base of DataModules that read running text as parallel streams."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from lmrecipes.batches import BatchPlan, StreamBatch, TextStatistics
from lmrecipes.data.corpora.synthetic_text import write_sample, write_synthetic
from lmrecipes.data.corpora.tables import HubRepository, TableFolder
from lmrecipes.data.corpora.text_source import Folder, Source
from lmrecipes.data.objectives.streams import Streams
from lmrecipes.data.prepared.cache import folder_for, recall
from lmrecipes.data.prepared.corpus import Prepared, find_prepared
from lmrecipes.data.prepared.progress_bar import Progress
from lmrecipes.data.prepared.tokenize_text import prepare
from lmrecipes.data.tokenizers.base import Vocabulary
from lmrecipes.data.tokenizers.text_config import Tokenizing
from lmrecipes.datamodules.prepared import PreparedDataModule
from lmrecipes.trainer_state import data_rank

# With a vocabulary at hand, the settings for making one are irrelevant to the cache.
_ANY = Tokenizing()


class TextDataModule(PreparedDataModule):
    """A corpus of running text. Subclasses define where it comes from and which vocabulary it has."""

    batch_type = StreamBatch
    batch_fields = frozenset(("seq_len", "mem_len"))
    tiny_lengths: ClassVar[Mapping[str, int]] = {}
    published_vocab_size: int | None = None
    """Number of different tokens that the whole corpus is known to have."""

    def __init__(
        self,
        batch: BatchPlan,
        path: str | None = None,
        tokenizing: Tokenizing | None = None,
        cache_dir: str | None = None,
        num_workers: int = 0,
        roll: bool = True,
        carry_memory: bool = True,
        warm_up_evaluation: bool = True,
        seed: int = 1111,
        vocabulary_dir: str | None = None,
        revision: str | None = None,
    ) -> None:
        """Stores the settings; nothing is read yet.

        Args:
            batch: sizes; a recipe's `batch:` group.
            path: local folder with train, valid and test text, instead of downloading.
            tokenizing: which vocabulary to make; left out, the corpus's own.
            cache_dir: where prepared data goes; left out, $LMRECIPES_CACHE or ~/.cache/lmrecipes.
            num_workers: processes that load training batches; 0 suffices, a batch takes microseconds.
            roll: whether every stream is rotated by a random amount in every epoch.
            carry_memory: whether memory is kept from epoch to epoch instead of starting empty.
            warm_up_evaluation: whether evaluation reads mem_len tokens before each stream, without scoring them.
            seed: of the rotations.
            vocabulary_dir: a saved vocabulary to use instead of making one.
            revision: branch, tag or commit of the hub's copy; left out, the newest.
        """
        super().__init__(batch, vocabulary_dir=vocabulary_dir, cache_dir=cache_dir, num_workers=num_workers, seed=seed)
        self.path = None if path is None else Path(path).expanduser()
        self.tokenizing = tokenizing or self.default_tokenizing()
        self.roll = roll
        self.carry_memory = carry_memory
        self.warm_up_evaluation = warm_up_evaluation
        self.revision = revision
        self._evaluated: tuple[Vocabulary, str] | None = None

    @abstractmethod
    def remote(self) -> Source:
        """The text without a local folder.

        Raises:
            ValueError: if this corpus must be given as local files.
        """

    def default_tokenizing(self) -> Tokenizing:
        """The vocabulary that the corpus is published with."""
        return Tokenizing()

    def source(self) -> Source:
        """Where the text comes from.

        Raises:
            ValueError: if it cannot be loaded, or `revision` is given for text that has none.
        """
        source: Source
        if self.path is None:
            source = self.remote()
        else:
            source = Folder(self.path)
            if not source.files and TableFolder.fits(self.path):
                source = TableFolder(self.path)
        if self.revision is not None and (self.path is not None or not isinstance(source, HubRepository)):
            raise ValueError(
                f"data.revision is {self.revision}, but this text does not come from the hub; leave it out"
            )
        return source

    @staticmethod
    def tiny_data(settings: Mapping[str, Any], text: Path) -> dict[str, Any]:
        """Reads the small text of a folder instead of the recipe's own."""
        return {name: value for name, value in (("path", str(text)), ("revision", None)) if name in settings}

    def write_synthetic(self, folder: Path) -> str:
        """Writes the beginning of the recipe's own text where that is local, or lines of words of its vocabulary."""
        if self.path is not None:
            return write_sample(folder, self.source())
        has_words = self.tokenizing.vocab_file is not None and self.vocabulary_dir is None
        return write_synthetic(folder, self.tokenizing.listed_words()[:100] if has_words else ())

    @property
    def _text_missing(self) -> bool:
        return self.path is not None and not self.path.exists()

    def _note(self, tag: str) -> tuple[Path | None, str]:
        return self.path, tag

    def evaluate_with(self, vocabulary: Vocabulary, split: str) -> None:
        """From now on only this split is read, with a trained model's own vocabulary, whatever the text is now."""
        self._evaluated, self._prepared = (vocabulary, split), None

    def prepare(self, progress: bool = True) -> None:
        """Tokenizes the corpus unless it is in the cache; training then needs neither network nor the text itself.

        Raises:
            ValueError: if the text cannot be loaded or read, or is not the published one.
        """
        if self._prepared is not None:
            return
        if self._evaluated is not None:
            self._prepared = self._prepare_split(*self._evaluated, progress)
            return
        vocabulary = self.named_vocabulary()

        def make(source: Source, tokenizing: Tokenizing, folder: Path, report: Progress) -> Prepared:
            for split in ("train", "val") if vocabulary is None else ():
                source.require(split)
            return prepare(source, tokenizing, folder, report, vocabulary)

        source = None if self._text_missing else self.source()
        tag = self.name if vocabulary is None else self._tag(vocabulary)
        prepared = self._find_or_make(source, [(self.tokenizing, tag)], vocabulary, make, progress)
        assert prepared is not None
        self._remember(prepared, _ANY, self._tag(prepared.vocabulary))
        size = prepared.vocabulary.size
        if self.path is None and vocabulary is None and self.published_vocab_size not in (None, size):
            raise ValueError(
                f"{self.name} has {size:,} different tokens instead of {self.published_vocab_size:,}: "
                "this is not the published text; download it again, or give it as local files with data.path"
            )
        self._prepared = prepared

    def _prepare_split(self, vocabulary: Vocabulary, split: str, progress: bool) -> Prepared:
        """The corpus as prepared for training if its text is unchanged or missing; else this split alone."""
        tag = self._tag(vocabulary)
        source: Source | None = None if self._text_missing else self.source()
        prepared = recall(source, self.path, _ANY, tag, self.cache_dir) or self._prepared_for_training(
            source, vocabulary
        )
        if prepared is None and source is not None and not source.has(split):
            prepared, source = recall(None, self.path, _ANY, tag, self.cache_dir), None
        if prepared is not None and split in prepared.manifest["splits"]:
            return prepared

        def make(source: Source, tokenizing: Tokenizing, folder: Path, report: Progress) -> Prepared:
            source.require(split)
            return prepare(source, tokenizing, folder, report, vocabulary, (split,))

        prepared = self._find_or_make(source, [(_ANY, f"{tag}-{split}")], vocabulary, make, progress)
        assert prepared is not None
        return prepared

    def _prepared_for_training(self, source: Source | None, vocabulary: Vocabulary) -> Prepared | None:
        """The text as training prepares it, if that was done with this very vocabulary."""
        if source is None:
            return None
        for tag in (self.name, self._tag(vocabulary)):
            with suppress(ValueError):  # a vocabulary file that no longer exists
                prepared = find_prepared(folder_for(source, self.tokenizing, tag, self.cache_dir))
                if prepared is not None and prepared.manifest["vocabulary"] == vocabulary.digest():
                    return prepared
        return None

    def listing(self) -> list[str]:
        """The files of the folder, with lines once they are prepared."""
        if self.path is None or self._text_missing:
            return []
        splits = self._prepared_splits(self.tokenizing)
        # Earlier versions counted no lines.
        lines = {split: info["lines"] for split, info in splits.items() if "lines" in info}
        listed = self.source().listing(lines)
        return [] if listed is None else [f"data.path {listed}"]

    def statistics(self, split: str) -> TextStatistics:
        """Tokens, words and characters of a split (train, val or test)."""
        return self.prepared.statistics(split)

    def streams(self, split: str) -> Streams:
        """This rank's streams of a split.

        Raises:
            ValueError: if batch and ranks do not divide, or the text is too short; naming the field.
        """
        rank, world_size = data_rank(self.trainer)
        plan = self.batch_plan.for_split(split)
        training = split == "train"
        tokens = self.prepared.tokens(split)
        try:
            return Streams(
                tokens,
                n_streams=plan.batch_size,
                seq_len=plan.seq_len,
                rank=rank,
                world_size=world_size,
                accumulation=self.batch_plan.accumulation(world_size) if training else 1,
                roll_seed=self.seed if training and self.roll else None,
                carry_memory=training and self.carry_memory,
                warm_up=plan.mem_len if self.warm_up_evaluation and not training else 0,
            )
        except ValueError as error:
            field = "batch.global_batch_size" if training else f"batch.{split}.batch_size"
            message = str(error)
            raise ValueError(message if message.startswith("batch.") else f"{field}: {message}") from None

    def warm_up_batches(self, split: str) -> int:
        """Batches that only fill the memory before a split's first scored one."""
        plan = self.batch_plan.for_split(split)
        return -(-plan.mem_len // plan.seq_len) if self.warm_up_evaluation else 0

    def train_batches(self) -> Streams:
        """This rank's streams of the training text."""
        return self.streams("train")

    def evaluation_batches(self, split: str) -> Streams:
        """This rank's streams of a text to evaluate."""
        return self.streams(split)
