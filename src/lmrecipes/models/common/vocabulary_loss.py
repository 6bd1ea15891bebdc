"""Cross-entropy over a large vocabulary without all its logits in memory at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

IGNORED = -100
"""A target that does not count."""

# Numbers in the logits that are there at once: 128 MiB of float32.
_AT_ONCE = 2**25


def vocabulary_loss(
    hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None = None, at_once: int = _AT_ONCE
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of `hidden @ weight.T + bias`, a few rows at a time.

    Gradients are computed on the way forward, while a chunk's logits are there: three matrix products in all, as with
    all logits at once, and nothing is computed twice. Unlike torch's chunked `F.linear_cross_entropy` it computes in
    autocast's type, hands over the loss of every row, and its chunks depend on the vocabulary alone.

    Args:
        hidden: (N, D).
        weight: (V, D).
        targets: int64 (N,); IGNORED where a row does not count.
        bias: (V,).
        at_once: logits that may be in memory at once.

    Returns:
        The mean over rows that count, 0 if there are none; and each row's loss (N,), without gradient.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    mean, rows = _VocabularyLoss.apply(hidden, weight, targets, bias, dtype, max(at_once // weight.shape[0], 1))
    return mean, rows


class _VocabularyLoss(torch.autograd.Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cuda")
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, dtype: torch.dtype, rows: int
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(hidden.device.type, enabled=False):
            counted = (targets != IGNORED).sum().clamp(min=1)
            needs_hidden, needs_weight, _, needs_bias = ctx.needs_input_grad[:4]
            table, x = weight.to(dtype), hidden.to(dtype)
            losses = torch.zeros(len(x), dtype=torch.float32, device=x.device)
            d_hidden = torch.empty_like(x) if needs_hidden else None
            d_weight = torch.zeros(weight.shape, dtype=torch.float32, device=x.device) if needs_weight else None
            d_bias = torch.zeros(len(weight), dtype=torch.float32, device=x.device) if needs_bias else None
            for start in range(0, len(x), rows):
                part = slice(start, start + rows)
                wanted = targets[part]
                counts = wanted != IGNORED
                index = wanted.clamp(min=0)[:, None]
                logits = (x[part] @ table.t()).float()
                if bias is not None:
                    logits += bias
                normalizer = logits.logsumexp(-1)
                losses[part] = (normalizer - logits.gather(1, index).squeeze(1)) * counts
                if not (needs_hidden or needs_weight or needs_bias):
                    continue
                # What was the logits is now their gradient.
                grad = logits.sub_(normalizer[:, None]).exp_()
                grad.scatter_add_(1, index, grad.new_full((1, 1), -1).expand_as(index))
                grad *= (counts / counted)[:, None]
                if d_bias is not None:
                    d_bias += grad.sum(0)
                low = grad.to(dtype)
                if d_hidden is not None:
                    d_hidden[part] = low @ table
                if d_weight is not None:
                    _add_product(d_weight, low, x[part])
        ctx.save_for_backward(d_hidden, d_weight, d_bias)
        ctx.dtypes = hidden.dtype, weight.dtype, None if bias is None else bias.dtype
        ctx.mark_non_differentiable(losses)
        return losses.sum() / counted, losses

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden, d_weight, d_bias = (
            None if gradient is None else gradient.mul_(grad).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return d_hidden, d_weight, None, d_bias, None, None


def _add_product(total: Tensor, grad: Tensor, x: Tensor) -> None:
    if grad.dtype == total.dtype:
        total.addmm_(grad.t(), x)
    else:
        total += grad.t() @ x
