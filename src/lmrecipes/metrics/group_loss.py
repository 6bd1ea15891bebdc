"""Token-weighted loss by group, such as by language."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lmrecipes.metrics.exact_sums import ExactSums


class GroupLoss(ExactSums):
    """Mean negative log-likelihood of each group's tokens, summed in float64 over batches and ranks."""

    totals: Tensor
    counts: Tensor

    def __init__(self, n_groups: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("totals", torch.zeros(n_groups, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(n_groups, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, nll: Tensor, counted: Tensor, groups: Tensor) -> None:
        """Adds the tokens of some rows.

        Args:
            nll: (rows, length).
            counted: which tokens count, bool (rows, length).
            groups: group of each row, int64 (rows,); one of no group counts nowhere.
        """
        known = (groups >= 0) & (groups < len(self.totals))
        counted = counted & known[:, None]
        groups = groups.where(known, 0)
        self.totals.index_add_(0, groups, (nll * counted).sum(1, dtype=torch.float64))
        self.counts.index_add_(0, groups, counted.sum(1, dtype=torch.float64))

    def compute(self) -> Tensor:
        """Mean of each group; nan for one without tokens."""
        return self.totals / self.counts
