"""Parallel streams of a tokenized text, cut into segments: a pure function of the step index."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lmrecipes.batches import StreamBatch


class Streams:
    """A text in parallel streams, read segment by segment.

    The text is cut into `n_streams` equal streams (the remainder is dropped). A rank reads its share of the streams, in
    one or more micro-batches per step: number k is part k % accumulation of segment k // accumulation, counted across
    epochs.
    """

    def __init__(
        self,
        tokens: NDArray[Any],
        *,
        n_streams: int,
        seq_len: int,
        rank: int = 0,
        world_size: int = 1,
        accumulation: int = 1,
        roll_seed: int | None = None,
        carry_memory: bool = False,
        warm_up: int = 0,
    ) -> None:
        """Computes the layout.

        Args:
            tokens: the text, a flat array.
            n_streams: streams of all ranks together.
            seq_len: tokens predicted per segment; an epoch's last segment may be shorter.
            rank: which share of the streams to read.
            world_size: number of shares.
            accumulation: micro-batches of a step (gradient accumulation).
            roll_seed: rotates every stream by a random amount in every epoch; None: no rotation.
            carry_memory: whether streams continue from epoch to epoch instead of restarting.
            warm_up: tokens before each stream's first that are read but not scored (evaluation).

        Raises:
            ValueError: if the streams do not divide evenly, or the text is too short for them.
        """
        parts = world_size * accumulation
        if n_streams % parts:
            raise ValueError(
                f"{n_streams} parallel streams are not divisible by {world_size} ranks x {accumulation} micro-batches; "
                f"use {max(parts, n_streams // parts * parts)}"
            )
        self.n_steps = len(tokens) // n_streams
        if self.n_steps < 2:
            raise ValueError(
                f"the text has {len(tokens):,} tokens, too few for {n_streams} parallel streams, "
                f"which need {2 * n_streams:,}; at most {max(len(tokens) // 2, 1)} would fit"
            )
        self.tokens = tokens
        self.seq_len = seq_len
        self.accumulation = accumulation
        self.roll_seed = roll_seed
        self.carry_memory = carry_memory
        self.n_streams = n_streams
        self.warm_segments = -(-warm_up // seq_len)
        share = n_streams // world_size
        self.streams = np.arange(rank * share, (rank + 1) * share)
        self.n_segments = -(-(self.n_steps - 1) // seq_len) + self.warm_segments
        self._rolls: tuple[int, NDArray[Any]] = (-1, np.zeros(n_streams, dtype=np.int64))

    def __len__(self) -> int:
        """Micro-batches of an epoch."""
        return self.n_segments * self.accumulation

    def batch(self, k: int) -> StreamBatch:
        """Micro-batch number k, counted from the start of training."""
        epoch, within = divmod(k, len(self))
        segment, part = divmod(within, self.accumulation)
        size = len(self.streams) // self.accumulation
        streams = self.streams[part * size : (part + 1) * size]
        start = (segment - self.warm_segments) * self.seq_len
        length = min(self.seq_len, self.n_steps - 1 - start)
        rows = np.arange(start, start + length + 1)
        if start < 0:
            # The memory of a stream is the text right before it; of the first stream, the end of the text.
            positions = (streams[:, None] * self.n_steps + rows) % (self.n_steps * self.n_streams)
        else:
            rotated = rows + self._roll(epoch)[streams][:, None]
            positions = streams[:, None] * self.n_steps + rotated % self.n_steps
        block = torch.from_numpy(self.tokens[positions].astype(np.int64))
        restart = segment == 0 and (epoch == 0 or not self.carry_memory)
        return StreamBatch(
            input_ids=block[:, :-1].contiguous(),
            targets=block[:, 1:].contiguous(),
            chunk=part,
            restart=restart,
            scored=segment >= self.warm_segments,
        )

    def _roll(self, epoch: int) -> NDArray[Any]:
        if self.roll_seed is not None and self._rolls[0] != epoch:
            generator = np.random.default_rng((self.roll_seed, epoch))
            self._rolls = (epoch, generator.integers(0, self.n_steps, size=self.n_streams))
        return self._rolls[1]
