"""Batches of sequences of about the same length, so that little is padding, as a pure function of the step."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[Any]
# Widths are rounded to multiples of this: good for matrix units, and few.
_MULTIPLE = 8
# Global batches sorted together: enough for little padding, few enough to stay random.
_TOGETHER = 50


def width(lengths: Ints, most: int) -> int:
    """Padded width of a batch with these lengths, at most `most`."""
    longest = int(lengths.max())
    return max(longest, min(-(-longest // _MULTIPLE) * _MULTIPLE, most))


class ShuffledBuckets:
    """Micro-batches of training, counted on from epoch to epoch.

    An epoch shuffles all sequences, sorts them by length within large parts, cuts these into global batches and
    shuffles those. What does not fill a global batch is left out, other sequences in every epoch. Which sequences a
    global batch has does not depend on the number of ranks and passes that share it.
    """

    def __init__(
        self, lengths: Ints, global_batch_size: int, *, rank: int = 0, world_size: int = 1, passes: int = 1, seed: int
    ) -> None:
        """Plans.

        Args:
            lengths: of all sequences.
            global_batch_size: sequences of a step; it divides over ranks and passes.
            rank: which share of each global batch is read here.
            world_size: number of shares.
            passes: micro-batches of a share.
            seed: for both shuffles, with the epoch.

        Raises:
            ValueError: if there are fewer sequences than one global batch takes.
        """
        if len(lengths) < global_batch_size:
            raise ValueError(
                f"batch.global_batch_size is {global_batch_size}, and {len(lengths)} is all windows to train on; "
                f"{len(lengths)} or fewer would do"
            )
        self.lengths = np.asarray(lengths)
        self.size = global_batch_size
        self.rank, self.world_size, self.passes, self.seed = rank, world_size, passes, seed
        self.n_steps = len(lengths) // global_batch_size
        self._order: tuple[int, Ints] = (-1, np.empty(0))

    def __len__(self) -> int:
        """Micro-batches of an epoch."""
        return self.n_steps * self.passes

    def rows(self, k: int) -> Ints:
        """Numbers of the sequences in micro-batch k of this rank."""
        epoch, within = divmod(k, len(self))
        step, part = divmod(within, self.passes)
        # Deal lengths evenly to ranks, so that none waits for another.
        share: Ints = self.epoch(epoch)[step][self.rank :: self.world_size]
        n = len(share) // self.passes
        return share[part * n : (part + 1) * n]

    def epoch(self, number: int) -> Ints:
        """The global batches of an epoch, (steps, sequences)."""
        if self._order[0] != number:
            chance = np.random.default_rng((self.seed, number))
            chosen = chance.permutation(len(self.lengths))[: self.n_steps * self.size]
            part = np.arange(len(chosen)) // (_TOGETHER * self.size)
            chosen = chosen[np.lexsort((self.lengths[chosen], part))]
            batches = chosen.reshape(self.n_steps, self.size)
            self._order = (number, batches[chance.permutation(self.n_steps)])
        return self._order[1]


def budgeted(lengths: Ints, most: int, tokens: int, world_size: int = 1) -> list[Ints]:
    """All sequences once, longest first, in batches of so many tokens with their padding.

    The number of batches is a multiple of `world_size`, of which each rank takes every n-th: all make equally many
    passes, and none reads what another does. Only where there are fewer sequences than ranks some batches are empty.

    Args:
        lengths: of all sequences.
        most: longest width.
        tokens: of a batch at most, unless a single sequence has more.
        world_size: number of ranks.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    batches: list[Ints] = []
    at = 0
    while at < len(order):
        number = max(1, tokens // width(lengths[order[at : at + 1]], most))
        batches.append(order[at : at + number])
        at += number
    while len(batches) % world_size:
        largest = max(range(len(batches)), key=lambda i: len(batches[i]))
        whole = batches[largest]
        batches[largest : largest + 1] = [whole[: (len(whole) + 1) // 2], whole[(len(whole) + 1) // 2 :]]
    return batches
