"""The memory that a rank carries from segment to segment, and its form in a checkpoint."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lmrecipes.batches import StreamBatch
from lmrecipes.trainer_state import DataRank


class StreamMemory:
    """One rank's memories: per micro-batch of an accumulated step, n_layers tensors (columns, length, d_model).

    A checkpoint holds the memory of all columns of the global batch in their order, so that it can be
    continued with other numbers of ranks and micro-batches.
    """

    def __init__(self) -> None:
        self._chunks: dict[int, list[Tensor]] = {}
        self._restored: list[Tensor] | None = None
        self._first_column = 0

    def read(self, batch: StreamBatch) -> list[Tensor] | None:
        """What the streams of this batch left behind; None at the beginning of the streams."""
        if batch.restart:
            self._restored = None
            return None
        if batch.chunk not in self._chunks and self._restored is not None:
            columns = batch.input_ids.shape[0]
            start = self._first_column + batch.chunk * columns
            device = batch.input_ids.device
            return [layer[start : start + columns].to(device) for layer in self._restored]
        return self._chunks.get(batch.chunk)

    def write(self, batch: StreamBatch, memory: list[Tensor]) -> None:
        """Keeps what this batch leaves behind."""
        self._chunks[batch.chunk] = memory

    def clear(self) -> None:
        """Forgets everything, as at the beginning of the streams."""
        self._chunks = {}
        self._restored = None

    def state(self, gather: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """Memory of all columns of all ranks on the CPU, n_layers tensors (global columns, length, d_model).

        Args:
            gather: stacks a tensor over ranks along a new first dimension (or returns it as it is for one rank).
        """
        if not self._chunks:
            return self._restored or []
        chunks = [self._chunks[chunk] for chunk in sorted(self._chunks)]
        layers = (torch.cat(layer) for layer in zip(*chunks, strict=True))
        return [gather(layer).reshape(-1, *layer.shape[1:]).cpu() for layer in layers]

    def restore(self, layers: list[Tensor], place: DataRank, mem_len: int) -> None:
        """Continues from what `state` returned, perhaps with another number of ranks, or a shorter memory."""
        self.clear()
        if layers:
            self._restored = [layer[:, max(layer.shape[1] - mem_len, 0) :] for layer in layers]
            self._first_column = place.rank * (layers[0].shape[0] // place.size)
