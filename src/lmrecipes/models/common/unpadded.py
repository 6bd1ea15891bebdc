"""Sequences of different lengths without their padding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """Where in a rectangle of (sequences, length) the real tokens are, one after another in N rows.

    Everything that treats tokens one by one can then work on (N, ...); only attention needs the rectangle.
    """

    shape: tuple[int, int]
    """Sequences, and the length of the longest."""
    tokens: Tensor | None
    """Place of each real token in the flattened rectangle, int64 of shape (N,); None if there is no padding."""
    real: Tensor | None
    """Where real tokens are, bool of shape (sequences, length); None if there is no padding."""
    starts: Tensor
    """Row of each sequence's first token, int64 of shape (sequences,)."""

    @classmethod
    def of(cls, lengths: Tensor, device: torch.device) -> Packing:
        """The packing of sequences that begin at the left of their rows.

        Args:
            lengths: tokens of each sequence, int64 of shape (sequences,); on the CPU, nothing waits for the device.
            device: where the tokens are.
        """
        counts = lengths.cpu()
        longest = int(counts.max())
        starts = (counts.cumsum(0) - counts).to(device, non_blocking=True)
        if int(counts.min()) == longest:
            return cls((len(counts), longest), None, None, starts)
        real = torch.arange(longest) < counts[:, None]
        tokens = real.flatten().nonzero().squeeze(1)
        return cls(
            (len(counts), longest), tokens.to(device, non_blocking=True), real.to(device, non_blocking=True), starts
        )

    def pack(self, padded: Tensor) -> Tensor:
        """(sequences, length or more, ...) to (N, ...)."""
        flat = padded[:, : self.shape[1]].flatten(0, 1)
        return flat if self.tokens is None else flat.index_select(0, self.tokens)

    def pad(self, packed: Tensor) -> Tensor:
        """(N or more, ...) to (sequences, length, ...), with zeros in the padding; more rows are left out."""
        if self.tokens is None:
            return packed[: self.shape[0] * self.shape[1]].unflatten(0, self.shape)
        empty = packed.new_zeros(self.shape[0] * self.shape[1], *packed.shape[1:])
        return empty.index_copy(0, self.tokens, packed[: len(self.tokens)]).unflatten(0, self.shape)

    def positions(self, device: torch.device) -> Tensor:
        """Place of each token in its sequence, int64 of shape (N,)."""
        return self.pack(torch.arange(self.shape[1], device=device).expand(self.shape))
