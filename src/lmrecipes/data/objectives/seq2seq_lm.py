"""Batches of input and target texts as a pure function of the step index; there is no iterator state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lmrecipes.batches import TextPairBatch
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
        rows: pairs of each row, of which there is room.
        input_len: width of the inputs.
        target_len: width of the targets.
        start_id: what decoding starts with.
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
    arrays = (
        inputs,
        input_pairs,
        before,
        targets,
        target_pairs,
        languages.astype(np.int64),
        questions.astype(np.int64),
    )
    return TextPairBatch(*(torch.from_numpy(array) for array in arrays))


class SpanCorrupter:
    """Corrupts the rows of a split dynamically, independently of the batch that they are in."""

    def __init__(self, tokens: Ints, starts: Ints, rows: Rows, vocabulary: SentencePiece, seed: int) -> None:
        """Holds tokens and row boundaries.

        Args:
            tokens: of all documents, one after the other.
            starts: where each document begins, and where the last ends.
            rows: where rows begin.
            vocabulary: for sentinels.
            seed: for what is left out.
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
            purpose: what it is for, which leaves out spans of its own.
            draws: numbers that say what each row leaves out.
            tight: whether it is only as wide as its longest row, rounded up to a multiple of 8.
        """
        rows = [
            self.pairs(*one) for one in zip(numbers.tolist(), [purpose] * len(numbers), draws.tolist(), strict=True)
        ]
        widths = [self.rows.packing.input_len, self.rows.packing.target_len]
        if tight:
            for i in range(2):
                longest = max(sum(len(pair[i]) for pair in pairs) for pairs in rows)
                widths[i] = min(-(-longest // _MULTIPLE) * _MULTIPLE, widths[i])
        languages = np.searchsorted(self._first, numbers, side="right") - 1
        return pair_batch(
            rows, *widths, start_id=self._vocabulary.pad_id, languages=languages, questions=np.asarray(numbers)
        )

    def text_tokens(self, numbers: Ints, n_languages: int) -> Ints:
        """Tokens of text in rows of these numbers, by language."""
        sizes = self.rows.bounds[numbers + 1] - self.rows.bounds[numbers]
        languages = np.searchsorted(self._first, numbers, side="right") - 1
        return np.bincount(languages, weights=sizes, minlength=n_languages).astype(np.int64)


class PairTrainingBatches:
    """A rank's micro-batches: number k is chunk k % n_chunks of step k // n_chunks, counted on from epoch to epoch.

    A step has the same rows with the same spans however many ranks and chunks it is spread over. Rows are drawn without
    a gap: an epoch is only so many steps as there are rows for, and the next goes on behind it.
    """

    def __init__(
        self, corrupter: SpanCorrupter, order: Interleaving, *, batch_size: int, place: DataRank, n_chunks: int
    ) -> None:
        """Settles the sizes.

        Args:
            corrupter: the rows.
            order: which of them come when.
            batch_size: rows of a step over all ranks and chunks.
            place: this rank among those that read different data.
            n_chunks: micro-batches of a step.
        """
        self._corrupter, self._order = corrupter, order
        self._batch_size, self._n_chunks = batch_size, n_chunks
        share = batch_size // place.size
        self._size = share // n_chunks
        self._begins = place.rank * share

    def __len__(self) -> int:
        """Micro-batches of an epoch."""
        return max(len(self._corrupter) // self._batch_size, 1) * self._n_chunks

    def batch(self, k: int) -> TextPairBatch:
        """Micro-batch number k, counted from the beginning of training."""
        step, chunk = divmod(k, self._n_chunks)
        draws = step * self._batch_size + self._begins + chunk * self._size + np.arange(self._size)
        return self._corrupter.batch(self.numbers(draws), _TRAINING, draws)

    def numbers(self, draws: Ints) -> Ints:
        """Which rows are drawn, in draws counted from the beginning of training."""
        return self._order.draw(draws)

    def text_tokens(self, first_step: int, end: int, n_languages: int) -> Ints:
        """Tokens of text by language that all ranks together read in steps from one to before another."""
        found = np.zeros(n_languages, dtype=np.int64)
        for step in range(first_step, end):
            draws = step * self._batch_size + np.arange(self._batch_size)
            found += self._corrupter.text_tokens(self.numbers(draws), n_languages)
        return found


class PairEvaluationBatches:
    """All rows once and always with the same spans, in one mixed order; every rank has as many batches."""

    def __init__(self, corrupter: SpanCorrupter, *, batch_size: int, place: DataRank, seed: int) -> None:
        """Settles the sizes.

        Args:
            corrupter: the rows.
            batch_size: rows at once over all ranks, at most.
            place: this rank among those that read different data.
            seed: for the order.

        Raises:
            ValueError: if there are fewer rows than ranks.
        """
        n = len(corrupter)
        if n < place.size:
            raise ValueError(
                f"the corpus has {n} held-out texts, fewer than the {place.size} processes; raise data.held_out"
            )
        self._corrupter, self._place, self._key = corrupter, place, keys(seed, _EVALUATION)
        self._n_batches = -(-n // max(batch_size, place.size))
        self._cuts = np.arange(self._n_batches * place.size + 1) * n // (self._n_batches * place.size)

    def __len__(self) -> int:
        """Batches of a rank."""
        return self._n_batches

    def batch(self, k: int) -> TextPairBatch:
        """Batch number k."""
        part = k % self._n_batches * self._place.size + self._place.rank
        places = np.arange(self._cuts[part], self._cuts[part + 1])
        numbers = permuted(places, len(self._corrupter), self._key)
        return self._corrupter.batch(numbers, _EVALUATION, numbers, tight=True)
