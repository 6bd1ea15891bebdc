"""The memory that a rank carries from segment to segment, and its form in a checkpoint."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lmrecipes.batches import StreamBatch
from lmrecipes.trainer_state import DataRank


class StreamMemory:
    """One rank's memories: per micro-batch of an accumulated step, n_layers tensors (streams, length, d_model).

    A checkpoint holds the memory of all streams of the global batch in their order, so that a run can
    resume with other numbers of ranks and micro-batches.
    """

    def __init__(self) -> None:
        self._micro_batches: dict[int, list[Tensor]] = {}
        self._restored: list[Tensor] | None = None
        self._first_stream = 0

    def read(self, batch: StreamBatch) -> list[Tensor] | None:
        """Memory of the streams of this batch; None at their start."""
        if batch.restart:
            self._restored = None
            return None
        if batch.chunk not in self._micro_batches and self._restored is not None:
            n_streams = batch.input_ids.shape[0]
            start = self._first_stream + batch.chunk * n_streams
            device = batch.input_ids.device
            return [layer[start : start + n_streams].to(device) for layer in self._restored]
        return self._micro_batches.get(batch.chunk)

    def write(self, batch: StreamBatch, memory: list[Tensor]) -> None:
        """Stores the memory after this batch."""
        self._micro_batches[batch.chunk] = memory

    def clear(self) -> None:
        """Clears the memory, as at the start of the streams."""
        self._micro_batches = {}
        self._restored = None

    def state(self, gather: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """Memory of all streams of all ranks on the CPU, n_layers tensors (global streams, length, d_model).

        Args:
            gather: stacks a tensor over ranks along a new first dimension (or returns it as it is for one rank).
        """
        if not self._micro_batches:
            return self._restored or []
        parts = [self._micro_batches[number] for number in sorted(self._micro_batches)]
        layers = (torch.cat(layer) for layer in zip(*parts, strict=True))
        return [gather(layer).reshape(-1, *layer.shape[1:]).cpu() for layer in layers]

    def restore(self, layers: list[Tensor], data_rank: DataRank, mem_len: int) -> None:
        """Restores what `state` returned, possibly with another number of ranks or a shorter memory."""
        self.clear()
        if layers:
            self._restored = [layer[:, max(layer.shape[1] - mem_len, 0) :] for layer in layers]
            self._first_stream = data_rank.rank * (layers[0].shape[0] // data_rank.size)
