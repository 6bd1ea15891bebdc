"""Tokenized input and target texts as flat, memory-mapped arrays, and decoding of generated texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lmrecipes.batches import TextPairBatch, WrittenTexts
from lmrecipes.data.objectives.seq2seq_lm import pair_batch
from lmrecipes.data.objectives.span_corruption import Pair
from lmrecipes.data.prepared.arrays import Arrays
from lmrecipes.data.sampling.length_buckets import width
from lmrecipes.data.tokenizers.sentencepiece import SentencePiece

Ints = NDArray[Any]
_CHUNK = 2000


class TextPair(NamedTuple):
    """An input text for a model, and the output it should generate."""

    head: str
    """Beginning of the input, which is truncated if the input is too long."""
    tail: str
    """End of the input, which begins with a space and is never truncated."""
    target: str
    number: int
    """Number of the question it belongs to."""
    language: int = 0
    """Number of its language."""


@dataclass(frozen=True)
class TextPairs(Arrays):
    """Tokens of texts and targets."""

    inputs: Ints
    """Tokens of all inputs, one after the other."""
    input_bounds: Ints
    """Where each begins, and the last ends, (pairs + 1,)."""
    targets: Ints
    """Tokens of all targets."""
    target_bounds: Ints
    """Where each begins, (pairs + 1,)."""
    question: Ints
    """Number of each pair's question, (pairs,)."""
    language: Ints
    """Number of each pair's language, (pairs,)."""

    def __len__(self) -> int:
        """Pairs."""
        return len(self.question)

    @cached_property
    def lengths(self) -> Ints:
        """Tokens of each input, (pairs,)."""
        return np.diff(self.input_bounds)

    def pair(self, number: int) -> Pair:
        """A pair by its number."""
        of_input, of_target = self.input_bounds[number : number + 2], self.target_bounds[number : number + 2]
        return Pair(self.inputs[of_input[0] : of_input[1]], self.targets[of_target[0] : of_target[1]])

    def batch(self, rows: Ints, input_len: int, target_len: int, start_id: int) -> TextPairBatch:
        """The batch of the pairs with these numbers, one per row; without any, a batch with weight zero."""
        numbers = rows.astype(np.int64) if len(rows) else np.array([-1])
        pairs = [self.pair(number) for number in np.maximum(numbers, 0).tolist()]
        widths = [
            width(np.array([len(pair[i]) for pair in pairs]), max_len)
            for i, max_len in enumerate((input_len, target_len))
        ]
        batch = pair_batch(
            [[pair] for pair in pairs],
            *widths,
            start_id=start_id,
            languages=self.language[np.maximum(numbers, 0)],
            questions=np.where(numbers < 0, -1, self.question[numbers]),
        )
        # Filler rows are neither trained on nor counted.
        batch.target_pairs[batch.questions < 0] = 0
        return batch


def tokenized(
    pairs: Sequence[TextPair],
    vocabulary: SentencePiece,
    input_len: int,
    target_len: int,
    *,
    input_eos: bool = True,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> TextPairs:
    """Tokenizes pairs; of an input that is too long the head is truncated, and a target that is too long.

    Args:
        pairs: the texts.
        vocabulary: to tokenize with.
        input_len: maximum tokens of an input, </s> included.
        target_len: maximum tokens of a target, </s> included.
        input_eos: whether an input ends with </s>.
        progress: called with the number of finished pairs and of all.

    Raises:
        ValueError: if the tail of an input alone is too long.
    """
    ending = [vocabulary.eos_id]
    inputs: list[Ints] = [np.zeros(0, np.uint32)]
    targets: list[Ints] = [np.zeros(0, np.uint32)]
    for begin in range(0, len(pairs), _CHUNK):
        part = pairs[begin : begin + _CHUNK]
        texts = {text for pair in part for text in (pair.head, pair.tail, pair.target)}
        ids = dict(zip(texts, vocabulary.encode_batch(list(texts)), strict=True))
        for pair in part:
            tail = ids[pair.tail] + (ending if input_eos else [])
            room = input_len - len(tail)
            if room < 0:
                raise ValueError(
                    f"batch.seq_len is {input_len}, but the text {pair.tail.strip()[:40]!r}... alone has {len(tail)} "
                    f"tokens and is never truncated; it must be {len(tail)} or more"
                )
            inputs.append(np.array(ids[pair.head][:room] + tail, dtype=np.uint32))
            targets.append(np.array(ids[pair.target][: target_len - 1] + ending, dtype=np.uint32))
        progress(begin + len(part), len(pairs))
    return TextPairs(
        np.concatenate(inputs),
        np.cumsum([len(x) for x in inputs]),
        np.concatenate(targets),
        np.cumsum([len(x) for x in targets]),
        np.array([pair.number for pair in pairs], dtype=np.int64),
        np.array([pair.language for pair in pairs], dtype=np.int64),
    )


def written(output: WrittenTexts, vocabulary: SentencePiece) -> Iterator[tuple[int, str, float]]:
    """Decodes generated texts.

    Args:
        output: of a step.
        vocabulary: of its tokens.

    Yields:
        Number of each question, the text up to </s>, and its score; filler rows are skipped.
    """
    rows = zip(output.questions.tolist(), output.tokens.tolist(), output.scores.float().tolist(), strict=True)
    for number, tokens, score in rows:
        if number >= 0:
            end = tokens.index(vocabulary.eos_id) if vocabulary.eos_id in tokens else len(tokens)
            yield number, vocabulary.decode(tokens[:end]).strip(), score
