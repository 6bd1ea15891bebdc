"""Sums that keep their precision even if the model is cast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

from torch import Tensor
from torchmetrics import Metric


class ExactSums(Metric):
    """A metric whose states move with the model, but keep their dtype (float64).

    In bfloat16 a sum stops growing after some hundred tokens.
    """

    full_state_update = False

    def set_dtype(self, dst_type: Any) -> Self:
        """Does nothing: the states keep their dtype."""
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Self:
        """Follows a move to another device but not a cast: torchmetrics guards `.bfloat16()` but not `.to(dtype)`."""

        def moved(state: Tensor) -> Tensor:
            there = fn(state)
            return there if there.dtype == state.dtype else state.to(there.device)

        super()._apply(moved, exclude_state)
        return self
