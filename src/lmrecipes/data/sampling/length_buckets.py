"""Batches of sequences of about the same length, so that little is padding, as a pure function of the step."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[Any]
# Widths are rounded to multiples of this: few widths, suited to matrix units.
_MULTIPLE = 8
# Global batches sorted together: enough for little padding, few enough for randomness.
_TOGETHER = 50


def width(lengths: Ints, max_len: int) -> int:
    """Padded width of a batch with these lengths: a multiple of 8 if it is not above `max_len`."""
    longest = int(lengths.max())
    return max(longest, min(-(-longest // _MULTIPLE) * _MULTIPLE, max_len))


class ShuffledBuckets:
    """Micro-batches of training, counted across epochs.

    An epoch shuffles all sequences, sorts them by length within large parts, cuts these into global batches and
    shuffles those. The remainder is dropped, a different one in every epoch. The sequences of a global batch do not
    depend on the number of ranks and micro-batches that share it.
    """

    def __init__(
        self,
        lengths: Ints,
        global_batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        accumulation: int = 1,
        seed: int,
    ) -> None:
        """Stores the settings.

        Args:
            lengths: of all sequences.
            global_batch_size: sequences of a step, divisible by world_size x accumulation.
            rank: which share of each global batch to read.
            world_size: number of shares.
            accumulation: micro-batches of a share.
            seed: of both shuffles, with the epoch.

        Raises:
            ValueError: if there are fewer sequences than a global batch.
        """
        if len(lengths) < global_batch_size:
            raise ValueError(
                f"batch.global_batch_size is {global_batch_size}, but there are only {len(lengths)} training examples; "
                f"it must be {len(lengths)} or less"
            )
        self.lengths = np.asarray(lengths)
        self.size = global_batch_size
        self.rank, self.world_size, self.accumulation, self.seed = rank, world_size, accumulation, seed
        self.n_steps = len(lengths) // global_batch_size
        self._order: tuple[int, Ints] = (-1, np.empty(0))

    def __len__(self) -> int:
        """Micro-batches of an epoch."""
        return self.n_steps * self.accumulation

    def rows(self, k: int) -> Ints:
        """Numbers of the sequences in micro-batch k of this rank."""
        epoch, within = divmod(k, len(self))
        step, part = divmod(within, self.accumulation)
        # Distribute lengths evenly over ranks, so that none waits for another.
        share: Ints = self.epoch(epoch)[step][self.rank :: self.world_size]
        n = len(share) // self.accumulation
        return share[part * n : (part + 1) * n]

    def epoch(self, number: int) -> Ints:
        """The global batches of an epoch, (steps, sequences)."""
        if self._order[0] != number:
            generator = np.random.default_rng((self.seed, number))
            chosen = generator.permutation(len(self.lengths))[: self.n_steps * self.size]
            part = np.arange(len(chosen)) // (_TOGETHER * self.size)
            chosen = chosen[np.lexsort((self.lengths[chosen], part))]
            batches = chosen.reshape(self.n_steps, self.size)
            self._order = (number, batches[generator.permutation(self.n_steps)])
        return self._order[1]


def budgeted(lengths: Ints, max_len: int, tokens: int, world_size: int = 1) -> list[Ints]:
    """All sequences once, longest first, in batches of a maximum of tokens including padding.

    The number of batches is a multiple of `world_size`; each rank takes every n-th. With fewer sequences than ranks,
    some batches are empty.

    Args:
        lengths: of all sequences.
        max_len: maximum width.
        tokens: maximum of a batch, unless a single sequence has more.
        world_size: number of ranks.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    batches: list[Ints] = []
    at = 0
    while at < len(order):
        number = max(1, tokens // width(lengths[order[at : at + 1]], max_len))
        batches.append(order[at : at + number])
        at += number
    while len(batches) % world_size:
        largest = max(range(len(batches)), key=lambda i: len(batches[i]))
        batches[largest : largest + 1] = np.array_split(batches[largest], 2)
    return batches
