"""Question and context as windows of tokens, and spans of tokens back as text of the context."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from lmrecipes.config.validation import at_least
from lmrecipes.data.prepared.arrays import Arrays
from lmrecipes.data.tasks.squad.files import Question

WindowRule = Literal["google", "nvidia"]
Ints = NDArray[Any]
# [CLS] before the question, [SEP] after it and after the context.
_MARKS = 3
_CHUNK = 2000


class Encoder(Protocol):
    """A vocabulary that maps tokens to characters."""

    cls_id: int
    sep_id: int

    def encode_with_offsets(self, texts: Sequence[str]) -> list[tuple[Ints, Ints]]:
        """Ids (tokens,) of each text, and first and last character (exclusive) of each token (tokens, 2)."""


@dataclass(frozen=True, kw_only=True)
class Windowing:
    """How contexts are cut."""

    seq_len: int
    """Maximum tokens of a window, with its question and special tokens."""
    max_query_len: int = 64
    """Tokens that a question is truncated to."""
    doc_stride: int = 128
    """Tokens of context from one window's beginning to the next one's."""
    rule: WindowRule = "google"
    """Labels of a window without its question's answer. `google`: the span is [CLS], and whether there is an answer is
    the question's own label. `nvidia`: the span is [CLS], and there is no answer."""

    def __post_init__(self) -> None:
        at_least(self, "data.", max_query_len=1, doc_stride=1)
        if self.seq_len < self.max_query_len + _MARKS + 1:
            raise ValueError(
                f"batch.seq_len is {self.seq_len}, which leaves no room for a context beside a question of "
                f"data.max_query_len {self.max_query_len} tokens and {_MARKS} marks; "
                f"{self.max_query_len + _MARKS + 1} or more would"
            )

    @property
    def pieces(self) -> type[Windows]:
        """What `cut` returns."""
        return Windows

    def cut(
        self, questions: Sequence[Question], encoder: Encoder, progress: Callable[[int, int], None] = lambda *_: None
    ) -> Windows:
        """The questions as windows; see `cut`."""
        return cut(questions, encoder, self, progress)


@dataclass(frozen=True)
class Windows(Arrays):
    """All windows of a list of questions, as flat, memory-mapped arrays.

    Each context and question is stored once; a window is a position in its context and a length.
    """

    context_ids: Ints
    """Tokens of all contexts, concatenated."""
    context_offsets: Ints
    """First and last character (exclusive) in its context of each token, (tokens, 2)."""
    context_bounds: Ints
    """Where each context begins among the tokens, and the end of the last, (contexts + 1,)."""
    query_ids: Ints
    """Tokens of all questions, truncated."""
    query_bounds: Ints
    """Where each question begins among them, (questions + 1,)."""
    question_context: Ints
    """Each question's context, (questions,)."""
    question: Ints
    """Each window's question, (windows,)."""
    begin: Ints
    """Each window's first token, counted in its context, (windows,)."""
    n_context: Ints
    """Tokens of context in each window, (windows,)."""
    start: Ints
    """Position in the window of the answer's first token, or 0, (windows,)."""
    end: Ints
    """Position of the answer's last token, or 0, (windows,)."""
    impossible: Ints
    """Whether there is no answer, by the rule, bool of shape (windows,)."""

    def __len__(self) -> int:
        """Windows."""
        return len(self.question)

    @cached_property
    def lengths(self) -> Ints:
        """Tokens of each window with question and marks, (windows,)."""
        lengths: Ints = _MARKS + np.diff(self.query_bounds)[self.question] + self.n_context
        return lengths

    def ids(self, window: int, cls_id: int, sep_id: int) -> Ints:
        """[CLS] question [SEP] context [SEP]."""
        question = self.question[window]
        query = self.query_ids[self.query_bounds[question] : self.query_bounds[question + 1]]
        first = self.context_bounds[self.question_context[question]] + self.begin[window]
        context = self.context_ids[first : first + self.n_context[window]]
        return np.concatenate([[cls_id], query, [sep_id], context, [sep_id]])

    def context_position(self, windows: Ints) -> Ints:
        """Position of the first context token in windows with these numbers."""
        question = self.question[windows]
        positions: Ints = self.query_bounds[question + 1] - self.query_bounds[question] + 2
        return positions

    def sees_best(self, window: int) -> Ints:
        """Which context tokens have their maximum context in this window (BERT's max-context rule).

        As published: the smaller of left and right context, plus a hundredth of the window's length.
        """
        length = int(self.n_context[window])
        # Windows of a question are contiguous.
        first, last = np.searchsorted(self.question, [self.question[window], self.question[window] + 1])
        if last - first == 1:
            return np.ones(length, dtype=bool)
        tokens = self.begin[window] + np.arange(length)
        begin, n = self.begin[first:last, None], self.n_context[first:last, None]
        left, right = tokens - begin, begin + n - 1 - tokens
        score = np.where((left >= 0) & (right >= 0), np.minimum(left, right) + 0.01 * n, -np.inf)
        is_best: Ints = score.argmax(axis=0) == window - first
        return is_best

    def characters(self, window: int, starts: Ints, ends: Ints) -> tuple[Ints, Ints]:
        """First and last characters (exclusive) in the context of spans in a window."""
        question = self.question[window]
        first = self.context_bounds[self.question_context[question]] + self.begin[window]
        shift = first - self.context_position(np.array(window))
        return self.context_offsets[starts + shift, 0], self.context_offsets[ends + shift, 1]


def cut(
    questions: Sequence[Question],
    encoder: Encoder,
    windowing: Windowing,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Windows:
    """Tokenizes questions and contexts, each context once, and cuts windows.

    An answer's tokens are those with any of its characters.

    Args:
        questions: with their answers, of which the first is the label.
        encoder: the vocabulary.
        windowing: sizes and rule.
        progress: called with the number of tokenized texts and of all.
    """
    numbers: dict[str, int] = {}
    question_context = np.array([numbers.setdefault(q.context, len(numbers)) for q in questions], dtype=np.int32)
    contexts = list(numbers)
    total = len(contexts) + len(questions)
    context_ids, context_offsets, context_bounds = _encode(contexts, encoder, None, lambda n: progress(n, total))
    query_ids, _, query_bounds = _encode(
        [q.question for q in questions], encoder, windowing.max_query_len, lambda n: progress(len(contexts) + n, total)
    )
    n_tokens = np.diff(context_bounds)[question_context]
    room = windowing.seq_len - _MARKS - np.diff(query_bounds)
    if len(room) and windowing.doc_stride > room.max() and (n_tokens > room).any():
        warnings.warn(
            f"data.doc_stride is {windowing.doc_stride}, but a window of batch.seq_len {windowing.seq_len} has at most "
            f"{room.max()} tokens of context: windows do not overlap, and an answer across a border is in none of "
            f"them; {max(room.max() // 2, 1)} would do",
            stacklevel=2,
        )
    # Beside the longest questions there may be room for less.
    step = np.minimum(windowing.doc_stride, room)
    number = 1 + np.maximum(0, -(-(n_tokens - room) // step))
    question = np.repeat(np.arange(len(questions)), number)
    nth = np.arange(len(question)) - np.repeat(np.cumsum(number) - number, number)
    begin = nth * step[question]
    n_context = np.minimum(n_tokens[question] - begin, room[question])
    first, last = _answer_tokens(questions, question_context, context_offsets, context_bounds)
    # Positions in the window, after the question and its two special tokens; partial spans do not count.
    shift = 2 + np.diff(query_bounds)[question] - begin
    inside = (first[question] >= begin) & (last[question] < begin + n_context)
    unanswerable = np.array([q.is_impossible for q in questions], dtype=bool)[question]
    return Windows(
        context_ids=context_ids,
        context_offsets=context_offsets,
        context_bounds=context_bounds,
        query_ids=query_ids,
        query_bounds=query_bounds,
        question_context=question_context,
        question=question.astype(np.int32),
        begin=begin.astype(np.int32),
        n_context=n_context.astype(np.int32),
        start=np.where(inside, first[question] + shift, 0).astype(np.int32),
        end=np.where(inside, last[question] + shift, 0).astype(np.int32),
        impossible=unanswerable if windowing.rule == "google" else ~inside,
    )


def _encode(
    texts: Sequence[str], encoder: Encoder, max_len: int | None, progress: Callable[[int], None]
) -> tuple[Ints, Ints, Ints]:
    ids: list[Ints] = [np.zeros(0, np.uint32)]
    offsets: list[Ints] = [np.zeros((0, 2), np.int32)]
    lengths = [0]
    for begin in range(0, len(texts), _CHUNK):
        part = texts[begin : begin + _CHUNK]
        for text, (tokens, spans) in zip(part, encoder.encode_with_offsets(part), strict=True):
            ids.append(tokens[:max_len])
            offsets.append(spans[:max_len] if text.isascii() else _with_marks(text, spans[:max_len]))
            lengths.append(len(ids[-1]))
        progress(begin + len(part))
    return np.concatenate(ids), np.concatenate(offsets), np.cumsum(lengths)


def _with_marks(text: str, offsets: Ints) -> Ints:
    """Extends a token over the accents and vowel signs after its last letter, which a vocabulary drops."""
    if not len(offsets):
        return offsets
    ends = offsets[:, 1].copy()
    limits = np.append(offsets[1:, 0], len(text))
    for i in np.flatnonzero(ends < limits).tolist():
        while ends[i] < limits[i] and unicodedata.category(text[ends[i]]) in ("Mn", "Mc", "Me"):
            ends[i] += 1
    return np.stack([offsets[:, 0], ends], axis=1)


def _answer_tokens(
    questions: Sequence[Question], question_context: Ints, offsets: Ints, bounds: Ints
) -> tuple[Ints, Ints]:
    """First and last token of each question's first answer in its context; -1 without one."""
    first, last = np.full(len(questions), -1, np.int64), np.full(len(questions), -1, np.int64)
    for i, (question, context) in enumerate(zip(questions, question_context.tolist(), strict=True)):
        if question.answers:
            text, start = question.answers[0]
            spans = offsets[bounds[context] : bounds[context + 1]]
            # The first token that ends after the answer's beginning, and the last that begins before its end.
            a = int(np.searchsorted(spans[:, 1], start, side="right"))
            b = int(np.searchsorted(spans[:, 0], start + len(text), side="left")) - 1
            if a <= b:
                first[i], last[i] = a, b
    return first, last
