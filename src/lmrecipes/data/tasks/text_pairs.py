"""Tokenized input and target texts as flat, memory-mapped arrays, and decoding of generated texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lmrecipes.batches import TextPairBatch, WrittenTexts
from lmrecipes.data.objectives.seq2seq_lm import pair_batch
from lmrecipes.data.objectives.span_corruption import Pair
from lmrecipes.data.sampling.length_buckets import width
from lmrecipes.data.tokenizers.sentencepiece import SentencePiece

Ints = NDArray[Any]
_CHUNK = 2000


class TextPair(NamedTuple):
    """What is asked of a model, and what it shall say."""

    head: str
    """Beginning of the input, which is cut short where there is no room for all."""
    tail: str
    """End of the input, which begins with a space and is kept whole."""
    target: str
    number: int
    """Of the question that it belongs to."""
    language: int = 0
    """Number of its language."""


@dataclass(frozen=True)
class TextPairs:
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

    def save(self, folder: Path) -> list[Path]:
        """Writes every array to a file of its own; returns the files."""
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / f"{name.name}.npy" for name in fields(self)]
        for name, file in zip(fields(self), files, strict=True):
            np.save(file, getattr(self, name.name))
        return files

    @classmethod
    def load(cls, folder: Path) -> TextPairs:
        """Maps the arrays into memory."""
        return cls(*(np.load(folder / f"{name.name}.npy", mmap_mode="r") for name in fields(cls)))

    def batch(self, rows: Ints, input_len: int, target_len: int, start_id: int) -> TextPairBatch:
        """The batch of the pairs of these numbers, one a row; none of them: one that does not count."""
        numbers = rows.astype(np.int64) if len(rows) else np.array([-1])
        found = [self.pair(number) for number in np.maximum(numbers, 0).tolist()]
        widths = [
            width(np.array([len(pair[i]) for pair in found]), most) for i, most in enumerate((input_len, target_len))
        ]
        batch = pair_batch(
            [[pair] for pair in found],
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
    """Tokens of pairs; an input too long loses the end of its head, a target too long its own.

    Args:
        pairs: the texts.
        vocabulary: for their tokens.
        input_len: tokens of an input at most, its end included.
        target_len: the same of a target.
        input_eos: whether an input ends with the end of a text.
        progress: called with how many pairs of how many are done.

    Raises:
        ValueError: if the end of an input alone is too long.
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
                    f"tokens, which must stay whole; {len(tail)} or more would do"
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
    """What a network wrote, as texts.

    Args:
        output: of a step.
        vocabulary: that it wrote with.

    Yields:
        Number of each question, the text up to its end, and its score; rows that only fill up are left out.
    """
    rows = zip(output.questions.tolist(), output.tokens.tolist(), output.scores.float().tolist(), strict=True)
    for number, tokens, score in rows:
        if number >= 0:
            end = tokens.index(vocabulary.eos_id) if vocabulary.eos_id in tokens else len(tokens)
            yield number, vocabulary.decode(tokens[:end]).strip(), score
