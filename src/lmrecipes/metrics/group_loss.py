"""Token-weighted loss by group, such as by language."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lmrecipes.metrics.exact_sums import ExactSums


class GroupLoss(ExactSums):
    """Mean negative log-likelihood of each group's tokens, summed in float64 over batches and ranks."""

    totals: Tensor
    counts: Tensor

    def __init__(self, names: Sequence[str], **kwargs: Any) -> None:
        """One group for each name."""
        super().__init__(**kwargs)
        self.names, n_groups = tuple(names), len(names)
        self.add_state("totals", torch.zeros(n_groups, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(n_groups, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, nll: Tensor, counted: Tensor, groups: Tensor) -> None:
        """Adds the tokens of some rows.

        Args:
            nll: (rows, length).
            counted: which tokens count, bool (rows, length).
            groups: group of each row, int64 (rows,); rows whose number is no group's are ignored.
        """
        known = (groups >= 0) & (groups < len(self.totals))
        counted = counted & known[:, None]
        groups = groups.where(known, 0)
        self.totals.index_add_(0, groups, (nll * counted).sum(1, dtype=torch.float64))
        self.counts.index_add_(0, groups, counted.sum(1, dtype=torch.float64))

    def compute(self) -> Tensor:
        """Mean of each group, in the order of the names; nan for one without tokens."""
        return self.totals / self.counts

    def by_name(self) -> dict[str, Tensor]:
        """Mean of each group that has tokens."""
        return {name: loss for name, loss in zip(self.names, self.compute(), strict=True) if not loss.isnan()}
