"""The best spans of a head with start and end logits."""

from __future__ import annotations

import torch
from torch import Tensor

from lmrecipes.batches import SpanBatch, SpanScores


def best_spans(
    start_logits: Tensor, end_logits: Tensor, batch: SpanBatch, *, n_best: int = 20, max_answer_len: int = 30
) -> SpanScores:
    """The spans with the highest sums of logits, and the sum at [CLS] for no answer.

    Args:
        start_logits: of shape (windows, length).
        end_logits: of shape (windows, length).
        batch: the windows.
        n_best: spans per window.
        max_answer_len: maximum tokens of a span.
    """
    in_context = batch.allowed.clone()
    in_context[:, 0] = False
    start_BL = start_logits.float().masked_fill(~in_context, -torch.inf)
    end_BL = end_logits.float().masked_fill(~in_context, -torch.inf)
    n_windows, length = start_BL.shape
    width = min(max_answer_len, length)
    ends_BLW = torch.nn.functional.pad(end_BL, (0, width - 1), value=-torch.inf).unfold(1, width, 1)
    sums = (start_BL[:, :, None] + ends_BLW).view(n_windows, length * width)
    _, indices = sums.topk(min(n_best, sums.shape[1]), dim=1)
    starts = indices // width
    ends = (starts + indices % width).clamp(max=length - 1)
    return SpanScores(
        windows=batch.windows,
        starts=starts,
        ends=ends,
        start_scores=start_BL.gather(1, starts),
        end_scores=ends_BLW.reshape(n_windows, -1).gather(1, indices),
        null=start_logits[:, 0].float() + end_logits[:, 0].float(),
        null_is_odds=False,
    )
