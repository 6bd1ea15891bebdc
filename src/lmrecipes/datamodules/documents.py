"""Documents of several sources as masked examples: the corpus of masked language models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

from torch.utils.data import DataLoader

from lmrecipes.batches import BatchPlan, MaskedBatch
from lmrecipes.data.corpora.documents import DocumentSource
from lmrecipes.data.objectives.electra_segments import SHORTEST
from lmrecipes.data.objectives.masked_lm import EvaluationBatches, Masker, TrainingBatches
from lmrecipes.data.objectives.masking import Masking
from lmrecipes.data.prepared.examples import Examples
from lmrecipes.data.sampling.mixture import Mixture
from lmrecipes.data.tokenizers.wordpiece import WordPiece
from lmrecipes.data.tokenizers.wordpiece_config import WordPieceSettings
from lmrecipes.datamodules.prepared_documents import PreparedDocuments, located
from lmrecipes.datamodules.resumable_loader import PositionLoader, micro_batches_done
from lmrecipes.trainer_state import data_rank


class DocumentsDataModule(PreparedDocuments):
    """Weighted sources of documents, packed into ELECTRA's examples once and masked anew whenever they are read.

    Position is arithmetic on the optimizer step, so that a resumed run reads on exactly where the interrupted one
    would have, with any number of workers and ranks.
    """

    name = "documents"
    vocabulary_class, vocabulary_name = WordPiece, "WordPiece"
    batch_fields = frozenset(("seq_len",))
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
        self.wordpiece = wordpiece or WordPieceSettings()
        super().__init__(
            batch,
            located(sources, paths or {}),
            self.wordpiece,
            seq_len=batch.sequence_length,
            held_out=held_out,
            cache_dir=cache_dir,
            num_workers=num_workers,
            seed=seed,
            vocabulary_dir=vocabulary_dir,
        )
        self.masking = masking or Masking()
        if batch.sequence_length < SHORTEST:
            raise ValueError(f"batch.seq_len is {batch.seq_len}; examples of two segments need {SHORTEST} or more")

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

    @property
    def vocabulary(self) -> WordPiece:
        """The vocabulary."""
        return cast(WordPiece, self.prepared.vocabulary)

    def _masker(self, split: str) -> Masker:
        examples = Examples(self.prepared, split)
        if not len(examples):
            raise self.nothing(split)
        return Masker(examples, self.vocabulary, self.masking, self.batch_plan.sequence_length, self.seed)

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
