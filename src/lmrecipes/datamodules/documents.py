"""Documents of several sources as masked examples: the corpus of masked language models."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, cast

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from lmrecipes.batches import BatchPlan, MaskedBatch
from lmrecipes.data.cache import folder_for, recall, remember
from lmrecipes.data.documents import Corpus, DocumentSource
from lmrecipes.data.examples import Examples
from lmrecipes.data.masked_batches import EvaluationBatches, Masker, TrainingBatches
from lmrecipes.data.masking import Masking
from lmrecipes.data.mixture import Mixture
from lmrecipes.data.prepare_examples import ALL, Share, prepare_examples
from lmrecipes.data.prepared import Prepared, find_prepared
from lmrecipes.data.ranks import data_rank
from lmrecipes.data.segments import SHORTEST
from lmrecipes.data.vocabularies import Vocabulary, load_vocabulary
from lmrecipes.data.wordpiece import WordPiece, WordPieceSettings
from lmrecipes.datamodules.loading import PositionLoader, ProgressBar, cache_folder, micro_batches_done, writing_to

# A vocabulary that is given makes how another would be made irrelevant.
_ANY = WordPieceSettings()


class DocumentsDataModule(LightningDataModule):
    """Weighted sources of documents, packed into ELECTRA's examples once and masked anew whenever they are read.

    Position is arithmetic on the optimizer step, so that a resumed run reads on exactly where the interrupted one
    would have, with any number of workers and ranks.
    """

    name = "documents"
    # What a rehearsal needs for two segments.
    tiny_lengths: ClassVar[dict[str, int]] = {"seq_len": 24}

    def __init__(
        self,
        batch: BatchPlan,
        sources: Sequence[DocumentSource],
        paths: dict[str, str] | None = None,
        wordpiece: WordPieceSettings | None = None,
        masking: Masking | None = None,
        held_out: float = 0.01,
        cache_dir: str | None = None,
        num_workers: int = 0,
        seed: int = 1111,
        vocabulary_dir: str | None = None,
    ) -> None:
        """Holds the settings; nothing is read yet.

        Args:
            batch: sizes; a recipe's `batch:` group.
            sources: where the documents come from, and how often each source is drawn.
            paths: local files in place of those of some sources, by the source's name.
            wordpiece: which vocabulary to make; left out, one is learned from the documents.
            masking: how many tokens are masked; left out, as published for the small and base size.
            held_out: share of the documents for validation, and as many again for the test.
            cache_dir: where prepared data goes; left out, $LMRECIPES_CACHE or ~/.cache/lmrecipes.
            num_workers: processes that load training batches; 0 suffices, a batch takes about a millisecond.
            seed: for splits, packing, order and masks.
            vocabulary_dir: a saved vocabulary to use instead of making one.

        Raises:
            ValueError: for settings that cannot be, naming the field.
        """
        super().__init__()
        self.batch_plan = batch
        self.sources = _located(sources, paths or {})
        self.wordpiece = wordpiece or WordPieceSettings()
        self.masking = masking or Masking()
        self.held_out = held_out
        self.cache_dir = cache_folder(cache_dir)
        self.num_workers = num_workers
        self.seed = seed
        self.vocabulary_dir = None if vocabulary_dir is None else Path(vocabulary_dir)
        self._given: WordPiece | None = None
        self._prepared: Prepared | None = None
        if not 0 < held_out < 0.5:
            raise ValueError(f"data.held_out is {held_out}; it must be above 0 and below 0.5")
        if batch.seq_len < SHORTEST:
            raise ValueError(f"batch.seq_len is {batch.seq_len}; examples of two segments need {SHORTEST} or more")
        for split in ("val", "test"):
            if batch.segmenting(split).seq_len != batch.seq_len:
                raise ValueError(
                    f"batch.{split}.seq_len is {batch.segmenting(split).seq_len}, but examples are prepared for "
                    f"batch.seq_len, {batch.seq_len}; leave it out"
                )

    @staticmethod
    def tiny_data(settings: Mapping[str, Any], text: Path) -> dict[str, Any]:
        """What makes a rehearsal's corpus small: every line of a text is a document of every source."""
        sources = [{**source, "documents": "line", "path": str(text / "train.txt")} for source in settings["sources"]]
        return {
            "sources": sources,
            "paths": None,
            "wordpiece": {"vocab_size": 300},
            "held_out": 0.2,
            "vocabulary_dir": None,
        }

    @cached_property
    def corpus(self) -> Corpus:
        """What is prepared."""
        return Corpus(sources=self.sources, seq_len=self.batch_plan.seq_len, held_out=self.held_out, seed=self.seed)

    def evaluate_with(self, vocabulary: Vocabulary, split: str) -> None:
        """From now on the documents are read with a trained model's own vocabulary, whatever they are now."""
        self._given = _checked(vocabulary, "the run")

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
            given = _checked(load_vocabulary(self.vocabulary_dir), str(self.vocabulary_dir))
        ways = [(self.wordpiece, self.name)]
        if given is not None:
            ways.append((_ANY, f"{self.name}-{given.digest()}"))
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
        self._prepared = made

    def _find(self, settings: WordPieceSettings, tag: str) -> Prepared | None:
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
        settings = json.dumps([said, self.batch_plan.seq_len, self.held_out, self.seed], sort_keys=True)
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
    def vocabulary(self) -> WordPiece:
        """The vocabulary."""
        return cast(WordPiece, self.prepared.vocabulary)

    @property
    def vocab_size(self) -> int:
        """Different tokens."""
        size: int = self.prepared.manifest["vocab_size"]
        return size

    def _masker(self, split: str) -> Masker:
        examples = Examples(self.prepared, split)
        if not len(examples):
            documents = sum(self.prepared.split(name)["documents"] for name in ("train", "val", "test"))
            raise ValueError(
                f"none of the corpus's {documents:,} documents fell to {split}; change data.held_out, {self.held_out}"
            )
        return Masker(examples, self.vocabulary, self.masking, self.batch_plan.seq_len, self.seed)

    def train_batches(self) -> TrainingBatches:
        """This rank's training batches.

        Raises:
            ValueError: if batch and ranks do not divide, or there are too few examples; naming the field.
        """
        place = data_rank(self.trainer)
        n_chunks = self.batch_plan.accumulation(place.size)
        masker = self._masker("train")
        mixture = Mixture(masker.examples.counts, [source.weight for source in self.sources], self.seed)
        try:
            return TrainingBatches(
                masker, mixture, batch_size=self.batch_plan.global_batch_size, place=place, n_chunks=n_chunks
            )
        except ValueError as error:
            raise ValueError(f"batch.global_batch_size: {error}") from None

    def evaluation_batches(self, split: str) -> EvaluationBatches:
        """This rank's batches of a held-out split."""
        size = self.batch_plan.segmenting(split).batch_size
        return EvaluationBatches(self._masker(split), batch_size=size, place=data_rank(self.trainer))

    def train_dataloader(self) -> DataLoader[MaskedBatch]:
        """Micro-batches from the optimizer's step to the end of the epoch, every time it is iterated."""
        return PositionLoader(
            self.train_batches(), lambda: micro_batches_done(self.trainer, self.batch_plan), self.num_workers
        )

    def val_dataloader(self) -> DataLoader[MaskedBatch]:
        """Validation examples in order, always with the same masks."""
        return PositionLoader(self.evaluation_batches("val"))

    def test_dataloader(self) -> DataLoader[MaskedBatch]:
        """Test examples in order, always with the same masks."""
        return PositionLoader(self.evaluation_batches("test"))


def _located(sources: Sequence[DocumentSource], paths: dict[str, str]) -> list[DocumentSource]:
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


def _checked(vocabulary: Vocabulary, where: str) -> WordPiece:
    if not isinstance(vocabulary, WordPiece):
        raise ValueError(f"the vocabulary of {where} is one of kind {vocabulary.kind}; these examples need WordPiece")
    return vocabulary
