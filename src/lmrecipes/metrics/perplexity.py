"""Loss and perplexity weighted by tokens, the same for any number of ranks and micro-batches."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lmrecipes.batches import TextStatistics
from lmrecipes.metrics.exact_sums import ExactSums


class TokenLoss(ExactSums):
    """Mean negative log-likelihood over all tokens seen, summed in float64 over batches and ranks."""

    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, nll: Tensor, counted: Tensor | None = None) -> None:
        """Adds the negative log-likelihoods of some tokens, in nats.

        Args:
            nll: of each token.
            counted: which of them count, bool of the same shape; default: all.
        """
        if counted is not None:
            nll = nll * counted
        self.total += nll.sum(dtype=torch.float64)
        self.count += nll.numel() if counted is None else counted.sum()

    def compute(self) -> Tensor:
        """Mean over all tokens; nan before the first."""
        return self.total / self.count


def text_metrics(loss: Tensor, statistics: TextStatistics | None) -> dict[str, Tensor]:
    """Loss per token in all the units that are reported.

    Args:
        loss: mean negative log-likelihood per token, in nats.
        statistics: size of the text; without it only loss and perplexity are given.

    Returns:
        `loss`, `perplexity` (per token); `word_perplexity` if tokens are not words; if the vocabulary can spell
        every text, `bits_per_char`.
    """
    metrics = {"loss": loss, "perplexity": loss.exp()}
    if statistics is not None:
        if statistics.words and statistics.words != statistics.tokens:
            metrics["word_perplexity"] = word_perplexity(loss, statistics)
        if statistics.spells and statistics.characters:
            metrics["bits_per_char"] = bits_per_char(loss, statistics)
    return metrics


def word_perplexity(loss: Tensor, statistics: TextStatistics) -> Tensor:
    """exp of the loss per word, line ends counted as words."""
    return (loss * statistics.tokens / statistics.words).exp()


def bits_per_char(loss: Tensor, statistics: TextStatistics) -> Tensor:
    """Loss per character, in bits."""
    return loss * statistics.tokens / statistics.characters / math.log(2)
