"""Span corruption (T5, mT5): texts with masked spans, and those spans, as pure functions of a key."""

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
    """How many tokens are masked, and in spans of what length.

    The number of masked tokens and spans follows from the length of a text alone, so that the length of every pair is
    known in advance; positions and lengths of the spans are random.
    """

    spans: Literal["google", "nemo"] = "google"
    """`google`: every partition of the masked tokens into spans is equally likely (Raffel et al. 2020); a text begins
    outside a span and ends within one. `nemo`: lengths are clipped geometric, conditioned on their sum; spans are
    anywhere but not adjacent."""
    density: float = 0.15
    """Share of the tokens that is masked."""
    mean_span: float = 3.0
    """Mean length of a span, in tokens (google)."""
    geometric_p: float = 0.2
    """Probability that a span ends after each token (nemo)."""
    longest_span: int = 10
    """Maximum tokens of a span (nemo)."""
    input_eos: bool = True
    """Whether the input too ends with </s>, as in Google's."""

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
        # Mean of a clipped geometric distribution: 4.46 as published.
        return (1 - (1 - self.geometric_p) ** self.longest_span) / self.geometric_p

    def counts(self, lengths: Ints) -> tuple[Ints, Ints]:
        """Masked tokens and spans of texts of these lengths; at least one, and never all of two or more tokens."""
        lengths = np.asarray(lengths, dtype=np.int64)
        n_masked = np.clip(np.rint(lengths * self.density), 1, np.maximum(lengths - 1, 1)).astype(np.int64)
        n_spans = np.maximum(np.rint(n_masked / self.mean), 1).astype(np.int64)
        if self.spans == "nemo":
            n_spans = np.maximum(n_spans, -(-n_masked // self.longest_span))
        return n_masked, np.minimum(n_spans, np.maximum(lengths - n_masked, 1))

    def pair_lengths(self, lengths: Ints) -> tuple[Ints, Ints]:
        """Tokens of input and target, </s> included, for texts of these lengths."""
        n_masked, n_spans = self.counts(lengths)
        return np.asarray(lengths) - n_masked + n_spans + self.input_eos, n_masked + n_spans + 1

    def longest_text(self, input_len: int, target_len: int, n_sentinels: int = 100) -> int:
        """Tokens of the longest text that fits input and target.

        Raises:
            ValueError: if none does.
        """
        lengths = np.arange(1, 2 * input_len + 2)
        inputs, targets = self.pair_lengths(lengths)
        fits = (inputs <= input_len) & (targets <= target_len) & (self.counts(lengths)[1] <= n_sentinels)
        if not fits[0]:
            raise ValueError(
                f"batch.seq_len {input_len} and batch.target_len {target_len} have no room for a text; "
                f"they must be {inputs[0]} and {targets[0]} or more"
            )
        return int(lengths[fits.argmin() - 1] if not fits.all() else lengths[-1])


class Pair(NamedTuple):
    """A corrupted text."""

    inputs: Ints
    """The text with a sentinel in place of every span."""
    targets: Ints
    """Every span after its sentinel, and </s>."""


def corrupt_pieces(
    tokens: Ints, bounds: Ints, corruption: SpanCorruption, key: Numbers, *, sentinels: Ints, eos_id: int
) -> list[Pair]:
    """Corrupts several texts at once.

    Args:
        tokens: of all texts, concatenated.
        bounds: where each text begins, and where the last ends.
        corruption: settings.
        key: random key of every text.
        sentinels: ids of <extra_id_0> and so on.
        eos_id: id of </s>.
    """
    lengths = np.diff(bounds)
    pairs = []
    for begin, length, n_masked, n_spans, one in zip(
        bounds[:-1].tolist(), lengths.tolist(), *(x.tolist() for x in corruption.counts(lengths)), key, strict=True
    ):
        starts, ends = _span_bounds(length, n_masked, n_spans, corruption, np.atleast_1d(one))
        pairs.append(
            _cut(tokens[begin : begin + length], starts, ends, sentinels[:n_spans], eos_id, corruption.input_eos)
        )
    return pairs


def _cut(text: Ints, starts: Ints, ends: Ints, marks: Ints, eos_id: int, input_eos: bool) -> Pair:
    """The pair of a text with masked spans."""
    sizes, n = ends - starts, len(starts)
    # +1 where a span begins, -1 after its end: the running sum is 1 within spans.
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


def _span_bounds(length: int, n_masked: int, n: int, corruption: SpanCorruption, key: Numbers) -> tuple[Ints, Ints]:
    """Starts and ends of a text's spans."""
    draws = uniforms(key, length + 1)[0]
    if corruption.spans == "google":
        sizes = _composition(n_masked, n, draws[: n_masked - 1])
        gaps = _composition(length - n_masked, n, draws[n_masked : length - 1]) if length > n_masked else 0 * sizes
    else:
        sizes = _geometric(n_masked, n, corruption.geometric_p, corruption.longest_span, draws[:n])
        # Gaps before the first and after the last span may be empty; gaps between two may not.
        gaps = _composition(length - n_masked + 2, n + 1, draws[n_masked:])[:n]
        gaps[0] -= 1
    ends = np.cumsum(gaps + sizes)
    return ends - sizes, ends


def _composition(total: int, parts: int, draws: Ints) -> Ints:
    """A random composition of a number into parts of 1 or more, from a random number for every position to cut."""
    cuts = np.empty(parts + 1, dtype=np.int64)
    cuts[0], cuts[-1] = 0, total
    cuts[1:-1] = np.sort(np.argsort(draws, kind="stable")[: parts - 1]) + 1
    sizes: Ints = np.diff(cuts)
    return sizes


def _geometric(total: int, parts: int, p: float, longest: int, draws: Ints) -> Ints:
    """Samples clipped geometric lengths conditioned on their number and sum, exactly."""
    # Rounded up to powers of two to have few tables.
    table = _table(p, longest, 1 << (parts - 1).bit_length(), 1 << (total - 1).bit_length())
    sizes, remaining = [], total
    for more, draw in zip(range(parts - 1, -1, -1), draws.tolist(), strict=True):
        size = bisect_right(table[more][remaining], draw) + 1
        sizes.append(size)
        remaining -= size
    return np.array(sizes)


@lru_cache(maxsize=16)
def _table(p: float, longest: int, parts: int, total: int) -> list[list[list[float]]]:
    """Cumulative distribution of a length (third index), given how many lengths follow (first index) and the sum of
    them all (second index).
    """
    chance = p * (1 - p) ** np.arange(longest)
    chance[-1] = (1 - p) ** (longest - 1)
    # Probability, up to a factor per row, that n lengths have this sum.
    ways = np.zeros((parts + 1, total + 1))
    ways[0, 0] = 1.0
    for n in range(1, parts + 1):
        ways[n] = np.convolve(ways[n - 1], np.concatenate([[0.0], chance]))[: total + 1]
        ways[n] /= max(ways[n].max(), np.finfo(float).tiny)
    rest = np.arange(total + 1)[:, None] - np.arange(1, longest + 1)
    cumulative = np.cumsum(np.where(rest >= 0, chance * ways[:-1][:, np.maximum(rest, 0)], 0.0), axis=-1)
    total_mass = cumulative[..., -1:]
    # Clamp: rounding must not select an impossible length.
    normalized = cumulative / np.maximum(total_mass, np.finfo(float).tiny)
    table: list[list[list[float]]] = np.where(cumulative >= total_mass * (1 - 1e-12), 1.0, normalized).tolist()
    return table
