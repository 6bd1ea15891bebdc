"""Documents of several sources, prepared once by any number of processes: the corpus of pretraining."""

from __future__ import annotations

import json
import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from lmrecipes.batches import BatchPlan
from lmrecipes.data.corpora.documents import Corpus, DocumentSource
from lmrecipes.data.corpora.malformed import complaint
from lmrecipes.data.corpora.synthetic_text import write_synthetic
from lmrecipes.data.corpora.text_source import SPLITS
from lmrecipes.data.objectives.base import Objective, PreparedSources
from lmrecipes.data.objectives.masked_lm import MaskedLM
from lmrecipes.data.prepared.cache import short_hash, writing_to
from lmrecipes.data.prepared.corpus import Prepared
from lmrecipes.data.prepared.progress_bar import Progress
from lmrecipes.data.prepared.shards import ALL, Share, VocabularySettings, prepare_examples
from lmrecipes.data.tokenizers.base import Vocabulary
from lmrecipes.data.tokenizers.sentencepiece_config import SentencePieceSettings
from lmrecipes.data.tokenizers.wordpiece_config import WordPieceSettings
from lmrecipes.datamodules.cached import check_vocabulary, tiny_vocabulary, vocabulary_settings
from lmrecipes.datamodules.prepared import PreparedDataModule
from lmrecipes.trainer_state import data_rank


class DocumentsDataModule(PreparedDataModule):
    """Weighted sources of documents, tokenized once, memory-mapped, and batched by an objective."""

    name = "documents"
    takes_shares: ClassVar[bool] = True
    # Room for an example of any objective: two segments, or a text with a span.
    tiny_lengths: ClassVar[dict[str, int]] = {"seq_len": 32, "target_len": 16}

    def __init__(
        self,
        batch: BatchPlan,
        sources: Sequence[DocumentSource],
        paths: dict[str, str] | None = None,
        objective: Objective | None = None,
        wordpiece: WordPieceSettings | None = None,
        sentencepiece: SentencePieceSettings | None = None,
        held_out: float = 0.01,
        cache_dir: str | None = None,
        num_workers: int = 0,
        seed: int = 1111,
        vocabulary_dir: str | None = None,
    ) -> None:
        """Stores the settings; nothing is read yet.

        Args:
            batch: sizes; a recipe's `batch:` group.
            sources: where the documents come from, and the weight of each.
            paths: local files in place of those of some sources, by the source's name.
            objective: training objective; left out, masked language modelling as published for ELECTRA.
            wordpiece: which WordPiece vocabulary to read or learn, for objectives that need one.
            sentencepiece: which SentencePiece vocabulary to read or learn, for objectives that need one.
            held_out: share of the documents in validation, and in the test.
            cache_dir: where prepared data goes; left out, $LMRECIPES_CACHE or ~/.cache/lmrecipes.
            num_workers: processes that load training batches; 0 suffices, a batch takes about a millisecond.
            seed: of splits, packing, order, masks and spans.
            vocabulary_dir: a saved vocabulary to use instead of making one.

        Raises:
            ValueError: for settings that do not work, naming the field.
        """
        super().__init__(batch, vocabulary_dir=vocabulary_dir, cache_dir=cache_dir, num_workers=num_workers, seed=seed)
        self.objective = objective or MaskedLM()
        self.sources = located(sources, paths or {})
        self.settings = vocabulary_settings(self.objective.vocabulary_class, wordpiece, sentencepiece)
        self.held_out = held_out
        self._seq_len = self.objective.example_len(batch)
        self._run_vocabulary: Vocabulary | None = None
        if not 0 < held_out < 0.5:
            raise ValueError(f"data.held_out is {held_out}; it must be above 0 and below 0.5")
        for split in ("val", "test"):
            if batch.for_split(split).seq_len != batch.seq_len:
                raise ValueError(
                    f"batch.{split}.seq_len is {batch.for_split(split).seq_len}, but examples are prepared for "
                    f"batch.seq_len, {batch.seq_len}; leave it out"
                )

    @property
    def batch_type(self) -> type:
        """Type of the objective's batches."""
        return self.objective.batch_type

    @property
    def batch_fields(self) -> frozenset[str]:
        """Optional fields of the batch plan that are read."""
        return self.objective.batch_fields

    @staticmethod
    def tiny_data(settings: Mapping[str, Any], text: Path) -> dict[str, Any]:
        """A small corpus for a rehearsal: every line of a text is a document of every source."""
        sources = [{**source, "documents": "line", "path": str(text / "train.txt")} for source in settings["sources"]]
        sizes = tiny_vocabulary(settings.get("objective"), MaskedLM)
        return {"sources": sources, "paths": None, **sizes, "held_out": 0.2, "vocabulary_dir": None}

    @cached_property
    def corpus(self) -> Corpus:
        """The corpus to prepare."""
        return Corpus(sources=self.sources, seq_len=self._seq_len, held_out=self.held_out, seed=self.seed)

    def write_synthetic(self, folder: Path) -> str:
        """Writes lines for `tiny_data`, each a document."""
        return write_synthetic(folder)

    def source(self) -> Corpus:
        """The documents to prepare."""
        return self.corpus

    @property
    def _text_missing(self) -> bool:
        return any(source.gone for source in self.sources)

    def _note(self, tag: str) -> tuple[None, str]:
        sources = [asdict(source) for source in self.sources]
        settings = json.dumps([sources, self._seq_len, self.held_out, self.seed], sort_keys=True)
        return None, f"{tag}-{short_hash(settings)}"

    def evaluate_with(self, vocabulary: Vocabulary, split: str) -> None:
        """From now on the documents are read with a trained model's own vocabulary, whatever they are now."""
        self._run_vocabulary, self._prepared = self._checked(vocabulary, "the run"), None

    def prepare(self, progress: bool = True, workers: int | None = None, share: Share = ALL) -> None:
        """Makes the examples unless they are in the cache; training then needs neither network nor the text itself.

        Args:
            progress: whether to show a bar on a terminal.
            workers: processes; left out, one for every core.
            share: of the parts to do, in an array of jobs.

        Raises:
            ValueError: if the text cannot be loaded or read.
        """
        if self._prepared is not None:
            return
        vocabulary = self._run_vocabulary
        if vocabulary is None and (named := self.named_vocabulary()) is not None:
            vocabulary = self._checked(named, str(self.vocabulary_dir))

        def make(corpus: Corpus, settings: VocabularySettings, folder: Path, report: Progress) -> Prepared | None:
            objective = type(self.objective)
            prepared = prepare_examples(
                *(corpus, settings, folder, report, vocabulary),
                objective=f"{objective.__module__}.{objective.__qualname__}",
                workers=workers or len(os.sched_getaffinity(0)),
                share=share,
            )
            for name, flaws in prepared.manifest["flaws"].items() if prepared else ():
                warnings.warn(f"source {name}: {complaint(flaws)}", stacklevel=2)
            return prepared

        candidates = [(self.settings, self.name)]
        if vocabulary is not None:
            # With a vocabulary at hand, the settings for making one are irrelevant to the cache.
            candidates.append((type(self.settings)(), self._tag(vocabulary)))
        source = None if self._text_missing else self.corpus
        self._prepared = self._find_or_make(source, candidates, vocabulary, make, progress)
        if self.ready:
            with writing_to(self.cache_dir):
                for split in SPLITS:
                    self.objective.index(self.prepared_sources, split)

    def listing(self) -> list[str]:
        """The files of every local source, with documents once they are prepared."""
        if self._text_missing:
            return []
        splits = self._prepared_splits(self.settings).values()
        lines = []
        for i, source in enumerate(self.sources):
            # Earlier versions did not count the documents of every source.
            counts = [info["documents_of_sources"][i] for info in splits if "documents_of_sources" in info]
            lines.append(source.listing(sum(counts) if counts else None))
        return [line for line in lines if line is not None]

    @property
    def ready(self) -> bool:
        """Whether all shards are prepared."""
        return self._prepared is not None

    @cached_property
    def prepared_sources(self) -> PreparedSources:
        """The examples of all sources, as the objective reads them."""
        return PreparedSources(
            self.prepared,
            [source.name for source in self.sources],
            [source.weight for source in self.sources],
            self.batch_plan,
            self.held_out,
            self.seed,
        )

    def train_batches(self) -> Any:
        """This rank's training batches.

        Raises:
            ValueError: if batch and ranks do not divide, or there are too few examples; naming the field.
        """
        return self.objective.train_batches(self.prepared_sources, data_rank(self.trainer))

    def evaluation_batches(self, split: str) -> Any:
        """This rank's batches of a held-out split."""
        return self.objective.evaluation_batches(self.prepared_sources, split, data_rank(self.trainer))

    def _checked(self, vocabulary: Vocabulary, owner: str) -> Vocabulary:
        check_vocabulary(vocabulary, self.objective.vocabulary_class, owner, "examples")
        return vocabulary


def located(sources: Sequence[DocumentSource], paths: dict[str, str]) -> list[DocumentSource]:
    """The sources, with local files for those in `paths`.

    Raises:
        ValueError: for duplicate or unknown names, or a source without anything to read.
    """
    if not sources:
        raise ValueError("data.sources is empty; give one or more, such as {name: mine, path: FOLDER}")
    names = [source.name for source in sources]
    if duplicates := [name for name, n in Counter(names).items() if n > 1]:
        raise ValueError(f"data.sources has {duplicates[0]} twice; give every source its own name")
    if unknown := [name for name in paths if name not in names]:
        raise ValueError(f"data.paths names {unknown[0]}, which is none of data.sources: {', '.join(names)}")
    located = [replace(source, path=paths.get(source.name, source.path)) for source in sources]
    for source in located:
        source.check()
    return located
