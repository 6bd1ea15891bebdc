"""Base of DataModules that prepare a corpus as a whole."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lmrecipes.data.prepared.cache import Vocabularies, folder_for, recall, remember
from lmrecipes.data.prepared.corpus import Prepared, find_prepared
from lmrecipes.data.prepared.progress_bar import Progress
from lmrecipes.data.tokenizers.base import Vocabulary
from lmrecipes.datamodules.cached import CachedDataModule
from lmrecipes.datamodules.resumable_loader import Batches, PositionLoader


class PreparedDataModule(CachedDataModule):
    """A corpus prepared as a whole, into one folder of the cache.

    It is found again without its text, by a record of which folder the same settings last led to.
    """

    name: str
    """Name of the corpus, with which its cache folders begin."""
    _prepared: Prepared | None = None

    @abstractmethod
    def source(self) -> Any:
        """The text to prepare: a `Source` or `Corpus`."""

    @property
    @abstractmethod
    def _text_missing(self) -> bool:
        """Whether local text no longer exists."""

    @abstractmethod
    def _note(self, tag: str) -> tuple[Path | None, str]:
        """Local path and name under which the cache folder of these settings is recorded."""

    def _tag(self, vocabulary: Vocabulary) -> str:
        return f"{self.name}-{vocabulary.digest()}"

    def _find(self, source: Any, settings: Vocabularies, tag: str) -> Prepared | None:
        """What was prepared with these settings; by its note alone if the text (source None) is missing."""
        if source is None or settings.content() is None:
            path, name = self._note(tag)
            prepared = recall(source, path, settings, name, self.cache_dir)
            if prepared is not None or source is None:
                return prepared
        return find_prepared(folder_for(source, settings, tag, self.cache_dir))

    def _find_or_make(
        self,
        source: Any,
        candidates: Sequence[tuple[Any, str]],
        vocabulary: Vocabulary | None,
        make: Callable[[Any, Any, Path, Progress], Prepared | None],
        progress: bool,
    ) -> Prepared | None:
        """What was prepared with the first matching candidate (settings and prefix of the cache folder), or else is
        prepared with the last by `make`. A source of None is missing; a vocabulary of None accepts any tokens.
        """
        for settings, tag in candidates:
            prepared = self._find(source, settings, tag)
            if prepared is not None and (vocabulary is None or prepared.manifest["vocabulary"] == vocabulary.digest()):
                break
        else:
            source = self.source() if source is None else source
            folder = folder_for(source, settings, tag, self.cache_dir)
            with self._preparing(self.name, progress) as report:
                prepared = make(source, settings, folder, report)
        if prepared is not None:
            self._remember(prepared, settings, tag)
        return prepared

    def _prepared_splits(self, settings: Vocabularies) -> dict[str, Any]:
        """The manifest's entries of the splits, if they are prepared."""
        prepared = self._prepared
        if prepared is None and self.vocabulary_dir is None:
            prepared = self._find(self.source(), settings, self.name)
        return {} if prepared is None else dict(prepared.manifest["splits"])

    @abstractmethod
    def listing(self) -> list[str]:
        """Lines that say which local files are read, and which are passed over; none for other text."""

    def _remember(self, prepared: Prepared, settings: Vocabularies, tag: str) -> None:
        path, name = self._note(tag)
        remember(prepared, path, settings, name)

    @property
    def prepared(self) -> Prepared:
        """The tokenized corpus."""
        if self._prepared is None:
            self.prepare(progress=False)
        assert self._prepared is not None
        return self._prepared

    @property
    def vocabulary(self) -> Any:
        """The corpus's vocabulary."""
        return self.prepared.vocabulary

    @property
    def vocab_size(self) -> int:
        """Different tokens."""
        size: int = self.prepared.manifest["vocab_size"]
        return size

    @abstractmethod
    def evaluation_batches(self, split: str) -> Batches[Any]:
        """This rank's batches of a split to evaluate."""

    def evaluation_loader(self, split: str) -> PositionLoader:
        """A split's batches in order, always the same."""
        return PositionLoader(self.evaluation_batches(split))
