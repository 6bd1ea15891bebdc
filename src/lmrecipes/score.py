"""Loss and perplexity of a given text under the model of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from lmrecipes.batches import Segmenting


@dataclass(frozen=True)
class Score:
    """What a language model makes of a text."""

    n_tokens: int
    """Predicted tokens."""
    loss: float
    """Mean negative log-likelihood per token, in nats."""

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(self.loss)


@torch.inference_mode()
def score_tokens(network: torch.nn.Module, ids: list[int], plan: Segmenting) -> Score:
    """Scores every token but the first, segment by segment with memory.

    Args:
        network: takes (input_ids, targets, memory) as TransformerXL does.
        ids: the text's tokens.
        plan: how the text is cut.

    Raises:
        ValueError: for fewer than two tokens.
    """
    if len(ids) < 2:
        raise ValueError("the text has fewer than two tokens, so there is nothing to predict")
    tokens = torch.tensor([ids])
    memory, total = None, 0.0
    for start in range(0, len(ids) - 1, plan.seq_len):
        end = min(start + plan.seq_len, len(ids) - 1)
        nll, memory = network(
            tokens[:, start:end],
            tokens[:, start + 1 : end + 1],
            memory,
            mem_len=plan.mem_len,
            clamp_len=plan.clamp_len,
            same_length=plan.same_length,
        )
        total += nll.double().sum().item()
    return Score(n_tokens=len(ids) - 1, loss=total / (len(ids) - 1))
