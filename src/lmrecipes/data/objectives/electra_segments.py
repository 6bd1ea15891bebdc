"""ELECTRA's examples: the sentences of a document packed into one or two segments (Clark et al. 2020, section 3.1)."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import NamedTuple

SHORTEST = 8
"""Minimum length for two segments with their special tokens."""
_SHORT_SHARE = 0.05
_SINGLE_SHARE = 0.1
_SHORTEST_TARGET = 5


class Segments(NamedTuple):
    """An example without its special tokens."""

    first: list[int]
    second: list[int]


def build_segments(sentences: Iterable[list[int]], length: int, generator: random.Random) -> Iterator[Segments]:
    """Examples of one document.

    Sentences are collected up to a target, which is `length`, or in one of twenty examples a random length from 5. As
    published, the target excludes special tokens, the last sentence is truncated, and a document's last example may be
    short. The published script carries the target from document to document; drawing it for each has the same
    distribution and lets documents be prepared independently.

    Args:
        sentences: token ids of the document's sentences.
        length: maximum tokens of an example, [CLS] and [SEP] included.
        generator: of random numbers.
    """
    collected: list[list[int]] = []
    n_tokens, target = 0, _target(length, generator)
    for sentence in sentences:
        if not sentence:
            continue
        collected.append(sentence)
        n_tokens += len(sentence)
        if n_tokens >= target:
            yield _pack(collected, target, length, generator)
            collected, n_tokens, target = [], 0, _target(length, generator)
    if collected:
        yield _pack(collected, target, length, generator)


def _target(length: int, generator: random.Random) -> int:
    return generator.randint(_SHORTEST_TARGET, length) if generator.random() < _SHORT_SHARE else length


def _pack(sentences: list[list[int]], target: int, length: int, generator: random.Random) -> Segments:
    """Two segments of whole sentences, truncated; one in ten examples is a single segment."""
    single = generator.random() < _SINGLE_SHARE
    room = sum(map(len, sentences)) + 1 if single else (target - 3) // 2
    first: list[int] = []
    second: list[int] = []
    for sentence in sentences:
        fits = len(first) + len(sentence) < room
        # A sentence across the middle goes to a random side.
        if not first or fits or (not second and len(first) < room and generator.random() < 0.5):
            first += sentence
        else:
            second += sentence
    first = first[: length - 2]
    return Segments(first, second[: max(0, length - len(first) - 3)])


def with_special_tokens(segments: Segments, cls_id: int, sep_id: int) -> tuple[list[int], int]:
    """[CLS] first [SEP] second [SEP], and where the second segment begins (the length, if there is none)."""
    tokens = [cls_id, *segments.first, sep_id]
    begins = len(tokens)
    return ([*tokens, *segments.second, sep_id] if segments.second else tokens), begins
