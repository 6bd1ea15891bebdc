"""Masked language modelling: batches of masked examples as a pure function of the step index."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lmrecipes.batches import BatchPlan, MaskedBatch
from lmrecipes.data.corpora.sentence_splitter import split_sentences
from lmrecipes.data.objectives.base import Make, Objective, PreparedSources
from lmrecipes.data.objectives.electra_segments import SHORTEST, build_segments, with_special_tokens
from lmrecipes.data.objectives.masking import Masking, mask
from lmrecipes.data.objectives.rank_batches import SplitBatches, StepBatches
from lmrecipes.data.prepared.examples import Examples
from lmrecipes.data.sampling.counter_random import keys
from lmrecipes.data.sampling.mixture import Mixture
from lmrecipes.data.tokenizers.wordpiece import WordPiece
from lmrecipes.data.tokenizers.wordpiece_cache import WordCache
from lmrecipes.trainer_state import DataRank

_TRAINING, _EVALUATION = 0, 1


class MaskedLM(Objective):
    """Examples of two segments as in BERT and ELECTRA, masked dynamically."""

    vocabulary_class = WordPiece
    batch_type = MaskedBatch
    batch_fields = frozenset(("seq_len",))

    def __init__(self, masking: Masking | None = None) -> None:
        """Sets how many tokens are masked.

        Args:
            masking: settings; left out, as published for the small and base size.
        """
        self.masking = masking or Masking()

    def example_len(self, batch: BatchPlan) -> int:
        """Tokens of an example, special tokens included.

        Raises:
            ValueError: if two segments do not fit.
        """
        if batch.sequence_length < SHORTEST:
            raise ValueError(f"batch.seq_len is {batch.seq_len}; examples of two segments need {SHORTEST} or more")
        return batch.sequence_length

    @staticmethod
    def maker(vocabulary: Any, example_len: int) -> Make:
        """Sentences of a document packed into two segments between [CLS] and [SEP]."""
        words = WordCache(vocabulary)

        def segments(paragraphs: Sequence[str], generator: random.Random) -> Iterator[tuple[Sequence[int], int]]:
            sentences = (words.encode(sentence) for line in paragraphs for sentence in split_sentences(line))
            for example in build_segments(sentences, example_len, generator):
                yield with_special_tokens(example, vocabulary.cls_id, vocabulary.sep_id)

        return segments

    def _masker(self, sources: PreparedSources, split: str) -> Masker:
        vocabulary: Any = sources.prepared.vocabulary
        length = sources.batch.sequence_length
        return Masker(sources.examples(split), vocabulary, self.masking, length, sources.seed)

    def train_batches(self, sources: PreparedSources, data_rank: DataRank) -> TrainingBatches:
        """This rank's training batches.

        Raises:
            ValueError: if batch and ranks do not divide, or there are too few examples; naming the field.
        """
        masker = self._masker(sources, "train")
        mixture = Mixture(masker.examples.counts, sources.weights, sources.seed)
        batch, accumulation = sources.batch, sources.batch.accumulation(data_rank.size)
        try:
            return TrainingBatches(
                masker, mixture, batch_size=batch.global_batch_size, data_rank=data_rank, accumulation=accumulation
            )
        except ValueError as error:
            raise ValueError(f"batch.global_batch_size: {error}") from None

    def evaluation_batches(self, sources: PreparedSources, split: str, data_rank: DataRank) -> EvaluationBatches:
        """This rank's batches of a held-out split, always with the same masks."""
        size = sources.batch.for_split(split).batch_size
        return EvaluationBatches(self._masker(sources, split), batch_size=size, data_rank=data_rank)


class Masker:
    """Masks examples independently of the batch that they are in."""

    def __init__(self, examples: Examples, vocabulary: WordPiece, masking: Masking, seq_len: int, seed: int) -> None:
        self.examples, self.seq_len, self._masking, self._seed = examples, seq_len, masking, seed
        self._most = masking.most_predictions(seq_len)
        self._kept = (vocabulary.cls_id, vocabulary.sep_id, vocabulary.mask_id)
        self._mask_id = vocabulary.mask_id

    def batch(self, numbers: NDArray[np.int64], purpose: int, draws: NDArray[np.int64], length: int) -> MaskedBatch:
        """A batch.

        Args:
            numbers: of the examples.
            purpose: training or evaluation, which have different masks.
            draws: random seeds of the masks.
            length: to pad to, as for `Examples.read`.
        """
        ids, types, lengths = self.examples.read(numbers, length)
        masked = mask(
            ids,
            lengths,
            keys(self._seed, purpose, draws),
            masking=self._masking,
            most=self._most,
            kept=self._kept,
            mask_id=self._mask_id,
        )
        tensors: dict[str, Any] = {name: torch.from_numpy(array) for name, array in masked._asdict().items()}
        return MaskedBatch(token_type_ids=torch.from_numpy(types), lengths=torch.from_numpy(lengths), **tensors)


class TrainingBatches(StepBatches):
    """Masked examples by step, the same masks on any number of ranks.

    Examples that do not fill a step at the end of an epoch are dropped; the next epoch drops others.
    """

    def __init__(
        self, masker: Masker, mixture: Mixture, *, batch_size: int, data_rank: DataRank, accumulation: int
    ) -> None:
        """Takes examples and their order.

        Args:
            masker: the examples.
            mixture: their order.
            batch_size: sequences of a step over all ranks and micro-batches.
            data_rank: this rank among those that read different data.
            accumulation: micro-batches of a step.

        Raises:
            ValueError: if there are fewer examples than a step needs.
        """
        n_steps = len(mixture) // batch_size
        if not n_steps:
            raise ValueError(
                f"the corpus has {len(mixture):,} training examples per epoch, fewer than one batch of {batch_size}; "
                f"at most {max(len(mixture), 1)} would fit"
            )
        super().__init__(n_steps, batch_size=batch_size, data_rank=data_rank, accumulation=accumulation)
        self._masker, self._mixture, self._per_epoch = masker, mixture, n_steps * batch_size

    def _draw(self, draws: NDArray[np.int64]) -> MaskedBatch:
        epoch = int(draws[0]) // self._per_epoch
        numbers = self._mixture.draw(epoch, draws - epoch * self._per_epoch)
        return self._masker.batch(numbers, _TRAINING, draws, self._masker.seq_len)


class EvaluationBatches(SplitBatches):
    """All examples in order, each once and always with the same mask."""

    def __init__(self, masker: Masker, *, batch_size: int, data_rank: DataRank) -> None:
        super().__init__(len(masker.examples), "examples", batch_size=batch_size, data_rank=data_rank)
        self._masker = masker

    def _read(self, positions: NDArray[np.int64]) -> MaskedBatch:
        return self._masker.batch(positions, _EVALUATION, positions, 0)
