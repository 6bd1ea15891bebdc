"""Parallel streams of a tokenized text, cut into segments: a pure function of the step index."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lmrecipes.batches import StreamBatch


class Streams:
    """A text in columns that are read in parallel, segment by segment.

    The text is cut into `n_columns` equal columns (the remainder is dropped). A rank reads its share of the columns, in
    one or more chunks per step. Micro-batch k is chunk k % n_chunks of segment k // n_chunks, counted across epochs.
    """

    def __init__(
        self,
        tokens: NDArray[Any],
        *,
        n_columns: int,
        seq_len: int,
        rank: int = 0,
        world_size: int = 1,
        n_chunks: int = 1,
        roll_seed: int | None = None,
        carry_memory: bool = False,
        warm_up: int = 0,
    ) -> None:
        """Computes the layout.

        Args:
            tokens: the text, a flat array.
            n_columns: columns of all ranks together.
            seq_len: tokens predicted per segment; an epoch's last segment may be shorter.
            rank: which share of the columns to read.
            world_size: number of shares.
            n_chunks: micro-batches of a step (gradient accumulation).
            roll_seed: rotates every column by a random amount in every epoch; None: no rotation.
            carry_memory: whether streams continue from epoch to epoch instead of restarting.
            warm_up: tokens before each column's first that are read but not scored (evaluation).

        Raises:
            ValueError: if the columns do not divide evenly, or the text is too short for them.
        """
        if n_columns % (world_size * n_chunks):
            raise ValueError(
                f"{n_columns} parallel streams do not divide over {world_size} ranks of {n_chunks} passes; "
                f"{max(world_size * n_chunks, n_columns // (world_size * n_chunks) * world_size * n_chunks)} would"
            )
        self.n_steps = len(tokens) // n_columns
        if self.n_steps < 2:
            raise ValueError(
                f"the text has {len(tokens):,} tokens, too few for {n_columns} parallel streams, "
                f"which need {2 * n_columns:,}; at most {max(len(tokens) // 2, 1)} would fit"
            )
        self.tokens = tokens
        self.seq_len = seq_len
        self.n_chunks = n_chunks
        self.roll_seed = roll_seed
        self.carry_memory = carry_memory
        self.n_columns = n_columns
        self.warm_segments = -(-warm_up // seq_len)
        share = n_columns // world_size
        self.columns = np.arange(rank * share, (rank + 1) * share)
        self.n_segments = -(-(self.n_steps - 1) // seq_len) + self.warm_segments
        self._rolls: tuple[int, NDArray[Any]] = (-1, np.zeros(n_columns, dtype=np.int64))

    def __len__(self) -> int:
        """Micro-batches of an epoch."""
        return self.n_segments * self.n_chunks

    def batch(self, k: int) -> StreamBatch:
        """Micro-batch number k, counted from the start of training."""
        epoch, within = divmod(k, len(self))
        segment, chunk = divmod(within, self.n_chunks)
        size = len(self.columns) // self.n_chunks
        columns = self.columns[chunk * size : (chunk + 1) * size]
        start = (segment - self.warm_segments) * self.seq_len
        length = min(self.seq_len, self.n_steps - 1 - start)
        rows = np.arange(start, start + length + 1)
        if start < 0:
            # A column's memory is the text right before it; for the first column, the end of the text.
            positions = (columns[:, None] * self.n_steps + rows) % (self.n_steps * self.n_columns)
        else:
            rotated = rows + self._roll(epoch)[columns][:, None]
            positions = columns[:, None] * self.n_steps + rotated % self.n_steps
        block = torch.from_numpy(self.tokens[positions].astype(np.int64))
        restart = segment == 0 and (epoch == 0 or not self.carry_memory)
        return StreamBatch(
            input_ids=block[:, :-1].contiguous(),
            targets=block[:, 1:].contiguous(),
            chunk=chunk,
            restart=restart,
            scored=segment >= self.warm_segments,
        )

    def _roll(self, epoch: int) -> NDArray[Any]:
        if self.roll_seed is not None and self._rolls[0] != epoch:
            generator = np.random.default_rng((self.roll_seed, epoch))
            self._rolls = (epoch, generator.integers(0, self.n_steps, size=self.n_columns))
        return self._rolls[1]
