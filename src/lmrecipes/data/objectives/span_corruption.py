"""Span corruption (T5, mT5): texts with spans left out, and what stood there, as pure functions of seed and number."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lmrecipes.data.sampling.counter_random import Numbers, uniforms

Ints = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class SpanCorruption:
    """How much is left out, and in how long spans.

    How many tokens and spans a text loses follows from its length alone, so that every pair's length is known before;
    where the spans are, and how long each is, is random.
    """

    spans: Literal["google", "nemo"] = "google"
    """`google`: every way of cutting the left-out tokens into spans is equally likely (Raffel et al. 2020), the text
    begins outside a span and ends within one. `nemo`: lengths are geometric, clipped, given their sum, and spans lie
    anywhere without touching."""
    density: float = 0.15
    """Share of the tokens that is left out."""
    mean_span: float = 3.0
    """Mean length of a span, in tokens (google)."""
    geometric_p: float = 0.2
    """Chance that a span ends after each token (nemo)."""
    longest_span: int = 10
    """Tokens of a span at most (nemo)."""
    input_eos: bool = True
    """Whether the input too ends with the end of a text, as Google's does."""

    def __post_init__(self) -> None:
        limits = {"density": (0.01, 0.5), "mean_span": (1, 100), "geometric_p": (0.01, 1), "longest_span": (1, 100)}
        for name, (lowest, highest) in limits.items():
            if not lowest <= getattr(self, name) <= highest:
                raise ValueError(f"data.corruption.{name} is {getattr(self, name)}; it must be {lowest} to {highest}")

    @cached_property
    def mean(self) -> float:
        """Mean length of a span, in tokens."""
        if self.spans == "google":
            return self.mean_span
        # A geometric length clipped at the longest: 4.46 as published.
        return (1 - (1 - self.geometric_p) ** self.longest_span) / self.geometric_p

    def counts(self, lengths: Ints) -> tuple[Ints, Ints]:
        """Tokens and spans that texts of these lengths lose; at least one, and never all but of a single token."""
        lengths = np.asarray(lengths, dtype=np.int64)
        left_out = np.clip(np.rint(lengths * self.density), 1, np.maximum(lengths - 1, 1)).astype(np.int64)
        n_spans = np.maximum(np.rint(left_out / self.mean), 1).astype(np.int64)
        if self.spans == "nemo":
            n_spans = np.maximum(n_spans, -(-left_out // self.longest_span))
        return left_out, np.minimum(n_spans, np.maximum(lengths - left_out, 1))

    def pair_lengths(self, lengths: Ints) -> tuple[Ints, Ints]:
        """Tokens of the input and of the target, with their ends, for texts of these lengths."""
        left_out, n_spans = self.counts(lengths)
        return np.asarray(lengths) - left_out + n_spans + self.input_eos, left_out + n_spans + 1

    def longest_text(self, input_len: int, target_len: int, n_sentinels: int = 100) -> int:
        """Tokens of the longest text of which input and target have room.

        Raises:
            ValueError: if there is none.
        """
        lengths = np.arange(1, 2 * input_len + 2)
        inputs, targets = self.pair_lengths(lengths)
        fits = (inputs <= input_len) & (targets <= target_len) & (self.counts(lengths)[1] <= n_sentinels)
        if not fits[0]:
            raise ValueError(
                f"input and target of {input_len} and {target_len} tokens have no room for a text; "
                f"{inputs[0]} and {targets[0]} or more would"
            )
        return int(lengths[fits.argmin() - 1] if not fits.all() else lengths[-1])


class Pair(NamedTuple):
    """A corrupted text."""

    inputs: Ints
    """The text with a sentinel in place of every span."""
    targets: Ints
    """Every span behind its sentinel, and the end."""


def corrupt_pieces(
    tokens: Ints, bounds: Ints, how: SpanCorruption, key: Numbers, *, sentinels: Ints, eos_id: int
) -> list[Pair]:
    """Corrupts several texts at once.

    Args:
        tokens: of all texts, one after the other.
        bounds: where each text begins, and where the last ends.
        how: how much, and where.
        key: a key for every text.
        sentinels: ids of the sentinels, the first one's first.
        eos_id: the end of a text.
    """
    lengths = np.diff(bounds)
    pairs = []
    for begin, length, left_out, n_spans, one in zip(
        bounds[:-1].tolist(), lengths.tolist(), *(x.tolist() for x in how.counts(lengths)), key, strict=True
    ):
        starts, ends = _places(length, left_out, n_spans, how, np.atleast_1d(one))
        pairs.append(_cut(tokens[begin : begin + length], starts, ends, sentinels[:n_spans], eos_id, how.input_eos))
    return pairs


def _cut(text: Ints, starts: Ints, ends: Ints, marks: Ints, eos_id: int, input_eos: bool) -> Pair:
    """The pair of a text of which spans are left out."""
    sizes, n = ends - starts, len(starts)
    # +1 where a span begins, -1 behind its end: the running sum says what is within one.
    edges = np.zeros(len(text) + 1, dtype=np.int8)
    edges[starts] += 1
    edges[ends] -= 1
    within = np.cumsum(edges[:-1]).astype(bool)
    kept = text[~within]
    # Tokens kept before a span: its start minus the lengths of earlier spans.
    before = starts - (np.cumsum(sizes) - sizes)
    inputs = np.insert(kept, before, marks)
    targets = np.insert(text[within], np.cumsum(sizes) - sizes, marks) if n else text[:0]
    ending = np.array([eos_id], dtype=text.dtype)
    return Pair(np.concatenate([inputs, ending]) if input_eos else inputs, np.concatenate([targets, ending]))


def _places(length: int, left_out: int, n: int, how: SpanCorruption, key: Numbers) -> tuple[Ints, Ints]:
    """Where the spans of a text begin and end."""
    draws = uniforms(key, length + 1)[0]
    if how.spans == "google":
        sizes = _composition(left_out, n, draws[: left_out - 1])
        gaps = _composition(length - left_out, n, draws[left_out : length - 1]) if length > left_out else 0 * sizes
    else:
        sizes = _geometric(left_out, n, how.geometric_p, how.longest_span, draws[:n])
        # Gaps before the first and after the last span may be empty; gaps between two may not.
        gaps = _composition(length - left_out + 2, n + 1, draws[left_out:])[:n]
        gaps[0] -= 1
    ends = np.cumsum(gaps + sizes)
    return ends - sizes, ends


def _composition(total: int, parts: int, draws: Ints) -> Ints:
    """A number as a sum of parts of 1 or more, each way equally likely, by a random number for every place to cut."""
    cuts = np.empty(parts + 1, dtype=np.int64)
    cuts[0], cuts[-1] = 0, total
    cuts[1:-1] = np.sort(np.argsort(draws, kind="stable")[: parts - 1]) + 1
    found: Ints = cuts[1:] - cuts[:-1]
    return found


def _geometric(total: int, parts: int, p: float, longest: int, draws: Ints) -> Ints:
    """Samples clipped geometric lengths conditioned on their number and sum, exactly."""
    # Rounded to powers of two, so that there are few tables.
    table = _table(p, longest, 1 << (parts - 1).bit_length(), 1 << (total - 1).bit_length())
    sizes, left = [], total
    for more, draw in zip(range(parts - 1, -1, -1), draws.tolist(), strict=True):
        size = bisect_right(table[more][left], draw) + 1
        sizes.append(size)
        left -= size
    return np.array(sizes)


@lru_cache(maxsize=16)
def _table(p: float, longest: int, parts: int, total: int) -> list[list[list[float]]]:
    """Chances that a length is at most 1, 2 and so on, where so many more follow (first index) and the sum of all of
    these is so much (second index).
    """
    chance = p * (1 - p) ** np.arange(longest)
    chance[-1] = (1 - p) ** (longest - 1)
    # Up to a factor for each row, the chance that so many lengths have this sum.
    ways = np.zeros((parts + 1, total + 1))
    ways[0, 0] = 1.0
    for n in range(1, parts + 1):
        ways[n] = np.convolve(ways[n - 1], np.concatenate([[0.0], chance]))[: total + 1]
        ways[n] /= max(ways[n].max(), np.finfo(float).tiny)
    rest = np.arange(total + 1)[:, None] - np.arange(1, longest + 1)
    found = np.cumsum(np.where(rest >= 0, chance * ways[:-1][:, np.maximum(rest, 0)], 0.0), axis=-1)
    whole = found[..., -1:]
    # Clamp: rounding must not select an impossible length.
    found = np.where(found >= whole * (1 - 1e-12), 1.0, found / np.maximum(whole, np.finfo(float).tiny))
    listed: list[list[list[float]]] = found.tolist()
    return listed
