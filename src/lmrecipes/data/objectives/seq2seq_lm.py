"""Batches of input and target texts as a pure function of the step index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lmrecipes.batches import TextPairBatch
from lmrecipes.data.objectives.rank_batches import SplitBatches, StepBatches
from lmrecipes.data.objectives.row_packing import Rows
from lmrecipes.data.objectives.span_corruption import Pair, corrupt_pieces
from lmrecipes.data.sampling.counter_random import keys, permuted
from lmrecipes.data.sampling.interleaving import Interleaving
from lmrecipes.data.tokenizers.sentencepiece import SentencePiece
from lmrecipes.trainer_state import DataRank

Ints = NDArray[Any]
_TRAINING, _EVALUATION = 0, 1
_MULTIPLE = 8


def pair_batch(
    rows: Sequence[Sequence[Pair]],
    input_len: int,
    target_len: int,
    *,
    start_id: int,
    languages: Ints,
    questions: Ints,
) -> TextPairBatch:
    """Packs rows of pairs into tensors.

    Args:
        rows: pairs of each row, which must fit the widths.
        input_len: width of the inputs.
        target_len: width of the targets.
        start_id: token that decoding starts with.
        languages: of each row.
        questions: number of each row.
    """
    inputs, input_pairs = np.zeros((2, len(rows), input_len), dtype=np.int64)
    before, targets, target_pairs = np.zeros((3, len(rows), target_len), dtype=np.int64)
    for row, pairs in enumerate(rows):
        at = to = 0
        for number, pair in enumerate(pairs, start=1):
            end, until = at + len(pair.inputs), to + len(pair.targets)
            inputs[row, at:end], input_pairs[row, at:end] = pair.inputs, number
            targets[row, to:until], target_pairs[row, to:until] = pair.targets, number
            before[row, to], before[row, to + 1 : until] = start_id, pair.targets[:-1]
            at, to = end, until
    per_row = (languages.astype(np.int64), questions.astype(np.int64))
    arrays = (inputs, input_pairs, before, targets, target_pairs, *per_row)
    return TextPairBatch(*(torch.from_numpy(array) for array in arrays))


class SpanCorrupter:
    """Corrupts the rows of a split dynamically, independently of the batch that they are in."""

    def __init__(self, tokens: Ints, starts: Ints, rows: Rows, vocabulary: SentencePiece, seed: int) -> None:
        """Holds tokens and row boundaries.

        Args:
            tokens: of all documents, concatenated.
            starts: where each document begins, and where the last ends.
            rows: where rows begin.
            vocabulary: for sentinels.
            seed: of the spans.
        """
        self.rows, self._tokens, self._starts, self._seed = rows, tokens, starts, seed
        self._sentinels, self._vocabulary = vocabulary.sentinels, vocabulary
        self._first = np.cumsum([0, *rows.counts])

    def __len__(self) -> int:
        """Rows."""
        return len(self.rows)

    def pairs(self, row: int, purpose: int, draw: int) -> list[Pair]:
        """The pairs of a row."""
        begin, end = self.rows.bounds[row], self.rows.bounds[row + 1]
        first, last = np.searchsorted(self._starts, [begin, end], side="right")
        inner = np.asarray(self._starts[first:last])
        bounds = np.unique(np.concatenate([[begin], inner[inner < end], [end]])) - begin
        return corrupt_pieces(
            np.asarray(self._tokens[begin:end]),
            bounds,
            self.rows.packing.corruption,
            keys(self._seed, purpose, draw, np.arange(len(bounds) - 1)),
            sentinels=self._sentinels,
            eos_id=self._vocabulary.eos_id,
        )

    def batch(self, numbers: Ints, purpose: int, draws: Ints, *, tight: bool = False) -> TextPairBatch:
        """A batch.

        Args:
            numbers: of the rows.
            purpose: training or evaluation, which have different spans.
            draws: random seeds of the rows.
            tight: whether to pad only to the longest row, rounded up to a multiple of 8.
        """
        rows = [self.pairs(row, purpose, draw) for row, draw in zip(numbers.tolist(), draws.tolist(), strict=True)]
        widths = [self.rows.packing.input_len, self.rows.packing.target_len]
        if tight:
            for i in range(2):
                longest = max(sum(len(pair[i]) for pair in pairs) for pairs in rows)
                widths[i] = min(-(-longest // _MULTIPLE) * _MULTIPLE, widths[i])
        start_id, languages = self._vocabulary.pad_id, self._languages(numbers)
        return pair_batch(rows, *widths, start_id=start_id, languages=languages, questions=np.asarray(numbers))

    def _languages(self, numbers: Ints) -> Ints:
        return np.searchsorted(self._first, numbers, side="right") - 1

    def text_tokens(self, numbers: Ints, n_languages: int) -> Ints:
        """Tokens of text in rows of these numbers, by language."""
        sizes = self.rows.bounds[numbers + 1] - self.rows.bounds[numbers]
        return np.bincount(self._languages(numbers), weights=sizes, minlength=n_languages).astype(np.int64)


class PairTrainingBatches(StepBatches):
    """Corrupted rows by step, with the same spans on any number of ranks.

    Rows are drawn without a gap: an epoch has as many steps as there are rows for, and the next continues after it.
    """

    def __init__(
        self, corrupter: SpanCorrupter, order: Interleaving, *, batch_size: int, data_rank: DataRank, accumulation: int
    ) -> None:
        """Takes rows and their order.

        Args:
            corrupter: the rows.
            order: their order.
            batch_size: rows of a step over all ranks and micro-batches.
            data_rank: this rank among those that read different data.
            accumulation: micro-batches of a step.
        """
        n_steps = max(len(corrupter) // batch_size, 1)
        super().__init__(n_steps, batch_size=batch_size, data_rank=data_rank, accumulation=accumulation)
        self._corrupter, self._order = corrupter, order

    def _draw(self, draws: Ints) -> TextPairBatch:
        return self._corrupter.batch(self._order.draw(draws), _TRAINING, draws)

    def text_tokens(self, first_step: int, end: int, n_languages: int) -> Ints:
        """Tokens of text by language that all ranks together read from one step to before another, (languages,)."""
        counts = np.zeros(n_languages, dtype=np.int64)
        for step in range(first_step, end):
            draws = step * self._batch_size + np.arange(self._batch_size)
            counts += self._corrupter.text_tokens(self._order.draw(draws), n_languages)
        return counts


class PairEvaluationBatches(SplitBatches):
    """All rows once and always with the same spans, in one shuffled order."""

    def __init__(self, corrupter: SpanCorrupter, *, batch_size: int, data_rank: DataRank, seed: int) -> None:
        super().__init__(len(corrupter), "texts", batch_size=batch_size, data_rank=data_rank)
        self._corrupter, self._key = corrupter, keys(seed, _EVALUATION)

    def _read(self, positions: Ints) -> TextPairBatch:
        numbers = permuted(positions, len(self._corrupter), self._key)
        return self._corrupter.batch(numbers, _EVALUATION, numbers, tight=True)
