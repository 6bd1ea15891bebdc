"""How well a discriminator detects replaced tokens, and a generator fills masks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lmrecipes.metrics.exact_sums import ExactSums

# Binned logits give the AUROC to four digits, in a ten-thousandth of the time of torchmetrics' thresholds.
_BOUND, _STEPS = 20.0, 4000


def area_under_curve(positives: Tensor, negatives: Tensor) -> Tensor:
    """Area under the ROC curve of binned scores: how often a positive is above a negative; nan without both.

    Args:
        positives: number of positives in each bin, from the lowest scores to the highest.
        negatives: number of negatives, likewise.
    """
    below = negatives.cumsum(0) - negatives
    # Ties within a bin count half.
    return (positives * (below + negatives / 2)).sum() / (positives.sum() * negatives.sum())


def histograms(logits: Tensor, positive: Tensor) -> Tensor:
    """Numbers of negatives and positives by logit, float64 of shape (2, bins)."""
    step = ((logits.float() / _BOUND + 1) * (_STEPS / 2)).clamp(0, _STEPS - 1).long()
    # scatter_add of ones: bincount is not deterministic on GPUs.
    counts = torch.zeros(2 * _STEPS, dtype=torch.float64, device=logits.device)
    counts.scatter_add_(0, step + _STEPS * positive.long(), torch.ones_like(step, dtype=torch.float64))
    return counts.view(2, _STEPS)


class ReplacedTokens(ExactSums):
    """Accuracies, precision, recall and area under the curve over all tokens seen, on all ranks."""

    masked: Tensor
    generated: Tensor
    drawn: Tensor
    by_logit: Tensor
    found: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("masked", "generated", "drawn"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("by_logit", torch.zeros(2, _STEPS, dtype=torch.float64), dist_reduce_fx="sum")
        # Confusion matrix: replaced (rows), predicted as replaced (columns).
        self.add_state("found", torch.zeros(2, 2, dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self, generator_logits: Tensor, originals: Tensor, sampled: Tensor, logits: Tensor, replaced: Tensor
    ) -> None:
        """Adds a batch.

        Args:
            generator_logits: (M, V).
            originals: original tokens, (M,).
            sampled: tokens of the generator, (M,).
            logits: the discriminator's, (N,).
            replaced: whether each token differs from the original, bool (N,).
        """
        self.masked += len(originals)
        self.generated += (generator_logits.argmax(-1) == originals).sum()
        self.drawn += (sampled == originals).sum()
        self.by_logit += histograms(logits, replaced)
        taken = logits > 0
        for row, these in enumerate((~replaced, replaced)):
            self.found[row] += torch.stack([(these & ~taken).sum(), (these & taken).sum()])

    def compute(self) -> dict[str, Tensor]:
        """The metrics; nan where undefined."""
        (right_own, wrong_own), (missed, hit) = self.found
        negatives, positives = self.by_logit
        tokens = self.found.sum()
        return {
            "generator_accuracy": self.generated / self.masked,
            "sampled_accuracy": self.drawn / self.masked,
            "replaced_share": (missed + hit) / tokens,
            "discriminator_accuracy": (right_own + hit) / tokens,
            "discriminator_precision": hit / (hit + wrong_own),
            "discriminator_recall": hit / (hit + missed),
            "discriminator_auc": area_under_curve(positives, negatives),
        }
