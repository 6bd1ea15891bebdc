"""Masking: which tokens of a sequence are predicted, and what replaces them (Clark et al. 2020, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lmrecipes.data.sampling.counter_random import Numbers, uniforms


@dataclass(frozen=True, kw_only=True)
class Masking:
    """How many tokens are masked."""

    mask_prob: float = 0.15
    """Share of a sequence's tokens to predict; published: 0.15, and 0.25 for the large size."""
    replace_prob: float = 0.85
    """Share of those that become [MASK]; the others are unchanged."""

    def __post_init__(self) -> None:
        for name in ("mask_prob", "replace_prob"):
            value = getattr(self, name)
            if not 0 < value <= 1:
                raise ValueError(f"data.objective.masking.{name} is {value}; it must be above 0 and at most 1")

    def most_predictions(self, seq_len: int) -> int:
        """Maximum predictions per sequence: 19 of 128 tokens and 79 of 512, as published."""
        return max(1, int((self.mask_prob + 0.005) * seq_len))


class Masked(NamedTuple):
    """Sequences after masking; the fields of `MaskedBatch`."""

    input_ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    originals: NDArray[np.int64]
    weights: NDArray[np.float32]


def mask(
    input_ids: NDArray[np.int64],
    lengths: NDArray[np.int64],
    key: Numbers,
    *,
    masking: Masking,
    most: int,
    kept: tuple[int, ...],
    mask_id: int,
) -> Masked:
    """Masks sequences, each by its own key, independently of the rest of the batch.

    As published: positions are drawn with replacement, and one drawn twice counts twice; it is masked if either draw
    masks it; special tokens count in a sequence's length but are never drawn; halves round to even.

    Args:
        input_ids: sequences of shape (sequences, length).
        lengths: their tokens without padding, special tokens included.
        key: random key of each sequence.
        masking: how many tokens to mask.
        most: maximum predictions per sequence.
        kept: special tokens, which are never masked.
        mask_id: the token [MASK].
    """
    n, length = input_ids.shape
    candidates = np.arange(length) < lengths[:, None]
    for token in kept:
        candidates &= input_ids != token
    # Number candidates across all sequences, so that one searchsorted finds all samples.
    ranks = candidates.ravel().cumsum()
    before = np.concatenate([[0], ranks[length - 1 :: length]])
    n_candidates = np.diff(before)
    random = uniforms(key, 2 * most)
    nth = before[:-1, None] + (random[:, :most] * n_candidates[:, None]).astype(np.int64)
    flat = np.searchsorted(ranks, nth + 1)
    wanted = np.clip(np.rint(lengths * masking.mask_prob), 1, most)
    counts = (np.arange(most) < wanted[:, None]) & (n_candidates[:, None] > 0)
    positions = np.where(counts, flat - np.arange(n)[:, None] * length, 0)
    rows = np.broadcast_to(np.arange(n)[:, None], positions.shape)
    originals = np.where(counts, input_ids[rows, positions], 0)
    replaced = counts & (random[:, most:] < masking.replace_prob)
    masked = input_ids.copy()
    masked[rows[replaced], positions[replaced]] = mask_id
    return Masked(masked, positions, originals, counts.astype(np.float32))
