"""Span corruption as a training objective (Raffel et al. 2020, arXiv:1910.10683; Xue et al. 2021, arXiv:2010.11934)."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lmrecipes.batches import BatchPlan, TextPairBatch
from lmrecipes.data.objectives.base import Make, Objective, PreparedSources
from lmrecipes.data.objectives.row_packing import Packing, Rows, index_rows
from lmrecipes.data.objectives.seq2seq_lm import PairEvaluationBatches, PairTrainingBatches, SpanCorrupter
from lmrecipes.data.objectives.span_corruption import SpanCorruption
from lmrecipes.data.prepared.examples import Examples
from lmrecipes.data.sampling.interleaving import Interleaving
from lmrecipes.data.tokenizers.sentencepiece import SentencePiece
from lmrecipes.trainer_state import DataRank


class SpanCorruptionLM(Objective):
    """Whole documents packed into rows, with spans replaced by sentinels dynamically."""

    vocabulary_class = SentencePiece
    batch_type = TextPairBatch
    batch_fields = frozenset(("seq_len", "target_len"))

    def __init__(
        self,
        corruption: SpanCorruption | None = None,
        packed: bool = True,
        alpha: float = 0.7,
        weigh_by: Literal["tokens", "documents"] = "tokens",
    ) -> None:
        """Sets the corruption and the mixing of sources.

        Args:
            corruption: which spans are masked; left out, as Google's.
            packed: whether a training row holds several texts, or one.
            alpha: sampling exponent: the probability of a source is proportional to its weight times its size to this
                power; 1: to its size, 0: uniform.
            weigh_by: unit of that size: tokens, as in NeMo (0.7), or documents, as in Google's (0.3).

        Raises:
            ValueError: for an alpha below 0 or above 1.
        """
        if not 0 <= alpha <= 1:
            raise ValueError(f"data.objective.alpha is {alpha}; it must be 0 to 1, such as 0.7")
        self.corruption = corruption or SpanCorruption()
        self.packed, self.alpha, self.weigh_by = packed, alpha, weigh_by

    def example_len(self, batch: BatchPlan) -> int:
        """0: documents are not cut.

        Raises:
            ValueError: if no text fits a row.
        """
        self.corruption.longest_text(batch.sequence_length, batch.max_target_len)
        return 0

    @staticmethod
    def maker(vocabulary: Any, example_len: int) -> Make:
        """The tokens of a whole document."""

        def document(paragraphs: Sequence[str], generator: random.Random) -> Iterator[tuple[Sequence[int], int]]:
            (tokens,) = vocabulary.encode_batch(["\n".join(paragraphs)])
            if tokens:
                yield tokens, len(tokens)

        return document

    def _packing(self, sources: PreparedSources, split: str) -> Packing:
        vocabulary: Any = sources.prepared.vocabulary
        return Packing(
            corruption=self.corruption,
            input_len=sources.batch.sequence_length,
            target_len=sources.batch.max_target_len,
            n_sentinels=vocabulary.n_sentinels,
            packed=self.packed and split == "train",
        )

    def rows(self, sources: PreparedSources, split: str) -> Rows:
        """The rows of a split: packed for training, one text each to evaluate; stored once."""
        packing = self._packing(sources, split)
        digest = hashlib.sha256(json.dumps(asdict(packing), sort_keys=True).encode()).hexdigest()[:12]
        starts = Examples(sources.prepared, split).starts
        documents = sources.prepared.split(split)["examples"]
        return index_rows(sources.prepared.folder / f"{split}.rows.{digest}", starts, documents, packing)

    def index(self, sources: PreparedSources, split: str) -> None:
        """Stores the row boundaries."""
        self.rows(sources, split)

    def corrupter(self, sources: PreparedSources, split: str) -> SpanCorrupter:
        """Makes input and target pairs of the rows of a split.

        Raises:
            ValueError: if the split is empty.
        """
        examples, rows = sources.examples(split), self.rows(sources, split)
        vocabulary: Any = sources.prepared.vocabulary
        return SpanCorrupter(sources.prepared.tokens(split), examples.starts, rows, vocabulary, sources.seed)

    def shares(self, sources: PreparedSources) -> NDArray[np.float64]:
        """Sampling probability of each source, (sources,), float64.

        Raises:
            ValueError: if a source has no training text.
        """
        documents = sources.prepared.split("train")["examples"]
        if empty := [name for name, n in zip(sources.names, documents, strict=True) if not n]:
            raise ValueError(f"source {empty[0]} has no training document with text; leave it out")
        ends = np.cumsum([0, *documents])
        sizes = np.diff(Examples(sources.prepared, "train").starts[ends]) if self.weigh_by == "tokens" else documents
        weights = np.asarray(sizes, dtype=np.float64) ** self.alpha * np.asarray(sources.weights)
        shares: NDArray[np.float64] = weights / weights.sum()
        return shares

    def train_batches(self, sources: PreparedSources, data_rank: DataRank) -> PairTrainingBatches:
        """This rank's training batches.

        Raises:
            ValueError: if batch and ranks do not divide; naming the field.
        """
        accumulation = sources.batch.accumulation(data_rank.size)
        corrupter = self.corrupter(sources, "train")
        order = Interleaving(corrupter.rows.counts, self.shares(sources).tolist(), sources.seed)
        size = sources.batch.global_batch_size
        return PairTrainingBatches(corrupter, order, batch_size=size, data_rank=data_rank, accumulation=accumulation)

    def evaluation_batches(self, sources: PreparedSources, split: str, data_rank: DataRank) -> PairEvaluationBatches:
        """This rank's batches of a held-out split, always with the same spans."""
        size = sources.batch.for_split(split).batch_size
        return PairEvaluationBatches(
            self.corrupter(sources, split), batch_size=size, data_rank=data_rank, seed=sources.seed
        )
