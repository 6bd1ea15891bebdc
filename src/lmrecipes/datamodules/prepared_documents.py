"""Documents that are prepared in parts, once: what the DataModules of large corpora share."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from lightning.pytorch import LightningDataModule

from lmrecipes.batches import BatchPlan
from lmrecipes.data.corpora.documents import Corpus, DocumentSource
from lmrecipes.data.corpora.malformed import complaint
from lmrecipes.data.corpora.synthetic_text import write_synthetic
from lmrecipes.data.prepared.cache import cache_folder, folder_for, recall, remember, writing_to
from lmrecipes.data.prepared.corpus import Prepared, find_prepared
from lmrecipes.data.prepared.progress_bar import ProgressBar
from lmrecipes.data.prepared.shards import ALL, Share, VocabularySettings, prepare_examples
from lmrecipes.data.tokenizers.base import Vocabulary
from lmrecipes.data.tokenizers.loading import load_vocabulary


class PreparedDocuments(LightningDataModule):
    """Sources of documents, tokenized once by any number of processes, then mapped into memory."""

    name: str
    """Name of the corpus."""
    takes_shares: ClassVar[bool] = True
    vocabulary_class: ClassVar[type[Vocabulary]]
    """What documents are tokenized with."""
    vocabulary_name: ClassVar[str]
    """What to call that in a message."""

    def __init__(
        self,
        batch: BatchPlan,
        sources: Sequence[DocumentSource],
        settings: VocabularySettings,
        *,
        seq_len: int,
        held_out: float,
        cache_dir: str | None,
        num_workers: int,
        seed: int,
        vocabulary_dir: str | None,
    ) -> None:
        """Holds the settings; nothing is read yet.

        Args:
            batch: sizes; a recipe's `batch:` group.
            sources: where the documents come from.
            settings: which vocabulary to make.
            seq_len: tokens of an example; 0 leaves documents whole.
            held_out: share of the documents for validation, and as many again for the test.
            cache_dir: where prepared data goes; left out, $LMRECIPES_CACHE or ~/.cache/lmrecipes.
            num_workers: processes that load training batches.
            seed: for splits, order and masks.
            vocabulary_dir: a saved vocabulary to use instead of making one.

        Raises:
            ValueError: for settings that cannot be, naming the field.
        """
        super().__init__()
        self.batch_plan = batch
        self.sources = list(sources)
        self.settings = settings
        self.held_out = held_out
        self.cache_dir = cache_folder(cache_dir)
        self.num_workers = num_workers
        self.seed = seed
        self.vocabulary_dir = None if vocabulary_dir is None else Path(vocabulary_dir)
        self._seq_len = seq_len
        self._given: Vocabulary | None = None
        self._prepared: Prepared | None = None
        if not 0 < held_out < 0.5:
            raise ValueError(f"data.held_out is {held_out}; it must be above 0 and below 0.5")
        for split in ("val", "test"):
            if batch.segmenting(split).seq_len != batch.seq_len:
                raise ValueError(
                    f"batch.{split}.seq_len is {batch.segmenting(split).seq_len}, but examples are prepared for "
                    f"batch.seq_len, {batch.seq_len}; leave it out"
                )

    @cached_property
    def corpus(self) -> Corpus:
        """What is prepared."""
        return Corpus(sources=self.sources, seq_len=self._seq_len, held_out=self.held_out, seed=self.seed)

    def write_synthetic(self, folder: Path) -> str:
        """Writes lines for `tiny_data`, each a document."""
        return write_synthetic(folder)

    def evaluate_with(self, vocabulary: Vocabulary, split: str) -> None:
        """From now on the documents are read with a trained model's own vocabulary, whatever they are now."""
        self._given = self._checked(vocabulary, "the run")

    def prepare(self, progress: bool = True, workers: int | None = None, share: Share = ALL) -> None:
        """Makes the examples unless that was done; training then needs neither network nor the text itself.

        Args:
            progress: whether to show a bar on a terminal.
            workers: processes; left out, one for every core.
            share: which of the parts to do, of an array of jobs.

        Raises:
            ValueError: if the text cannot be had or read.
        """
        given = self._given
        if given is None and self.vocabulary_dir is not None:
            given = self._checked(load_vocabulary(self.vocabulary_dir), str(self.vocabulary_dir))
        # A vocabulary that is given makes how another would be made irrelevant.
        ways: list[tuple[VocabularySettings, str]] = [(self.settings, self.name)]
        if given is not None:
            ways.append((type(self.settings)(), f"{self.name}-{given.digest()}"))
        for settings, tag in ways:
            found = self._find(settings, tag)
            if found is not None and (given is None or found.manifest["vocabulary"] == given.digest()):
                self._prepared = found
                return
        settings, tag = ways[-1]
        folder = folder_for(self.corpus, settings, tag, self.cache_dir)
        n_workers = workers or len(os.sched_getaffinity(0))
        with writing_to(self.cache_dir), ProgressBar(f"preparing {self.name}", progress) as report:
            made = prepare_examples(self.corpus, settings, folder, report, given=given, workers=n_workers, share=share)
        if made is not None:
            remember(made, None, settings, self._note(tag))
            for source, flaws in made.manifest["flaws"].items():
                warnings.warn(f"source {source}: {complaint(flaws)}", stacklevel=2)
        self._prepared = made

    def _find(self, settings: VocabularySettings, tag: str) -> Prepared | None:
        """The examples if they were made, also of text or vocabulary files that are gone since."""
        gone = any(source.gone for source in self.sources)
        if gone or settings.content() is None:
            found = recall(None if gone else self.corpus, None, settings, self._note(tag), self.cache_dir)
            if found is not None or gone:
                return found
        return find_prepared(folder_for(self.corpus, settings, tag, self.cache_dir))

    def _note(self, tag: str) -> str:
        """Under which name it is noted what these settings led to."""
        said = [asdict(source) for source in self.sources]
        settings = json.dumps([said, self._seq_len, self.held_out, self.seed], sort_keys=True)
        return f"{tag}-{hashlib.sha256(settings.encode()).hexdigest()[:12]}"

    def prepare_data(self) -> None:
        """Lightning's hook: prepares in one process per node."""
        self.prepare()

    @property
    def ready(self) -> bool:
        """Whether all parts are prepared, of which other jobs may have some."""
        return self._prepared is not None

    @property
    def prepared(self) -> Prepared:
        """The examples."""
        if self._prepared is None:
            self.prepare(progress=False)
        assert self._prepared is not None
        return self._prepared

    @property
    def vocab_size(self) -> int:
        """Different tokens."""
        size: int = self.prepared.manifest["vocab_size"]
        return size

    def nothing(self, split: str) -> ValueError:
        """What to say of a split that no document fell to."""
        documents = sum(self.prepared.split(name)["documents"] for name in ("train", "val", "test"))
        return ValueError(
            f"none of the corpus's {documents:,} documents fell to {split}; change data.held_out, {self.held_out}"
        )

    def _checked(self, vocabulary: Vocabulary, where: str) -> Vocabulary:
        if not isinstance(vocabulary, self.vocabulary_class):
            raise ValueError(
                f"the vocabulary of {where} is one of kind {vocabulary.kind}; "
                f"these examples need {self.vocabulary_name}"
            )
        return vocabulary


def located(sources: Sequence[DocumentSource], paths: dict[str, str]) -> list[DocumentSource]:
    """The sources with local files where some are given.

    Raises:
        ValueError: for names that do not fit.
    """
    if not sources:
        raise ValueError("data.sources is empty; give one or more, such as {name: mine, path: FOLDER}")
    names = [source.name for source in sources]
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        raise ValueError(f"data.sources has {twice[0]} twice; give every source a name of its own")
    if unknown := [name for name in paths if name not in names]:
        raise ValueError(f"data.paths names {unknown[0]}, which is none of data.sources: {', '.join(names)}")
    located = [replace(source, path=paths.get(source.name, source.path)) for source in sources]
    for source in located:
        source.check()
    return located
