"""Scoring a text of any length, segment by segment with memory."""

from __future__ import annotations

import torch
from torch import nn

from lmrecipes.batches import SplitPlan
from lmrecipes.models.transformer_xl.export import settings_of


@torch.inference_mode()
def score_tokens(network: nn.Module, ids: list[int], plan: SplitPlan) -> float:
    """Mean negative log-likelihood, in nats, of every token but the first.

    Args:
        network: TransformerXL, or its exported program.
        ids: the text's tokens.
        plan: how the text is cut.

    Raises:
        ValueError: for fewer than two tokens.
    """
    if len(ids) < 2:
        raise ValueError("the text is empty after tokenization")
    tokens = torch.tensor([ids])
    memory, total = None, 0.0
    for start in range(0, len(ids) - 1, plan.seq_len):
        end = min(start + plan.seq_len, len(ids) - 1)
        segment, targets = tokens[:, start:end], tokens[:, start + 1 : end + 1]
        nll, memory = network(segment, targets, memory, **settings_of(plan))
        total += nll.double().sum().item()
    return total / (len(ids) - 1)
