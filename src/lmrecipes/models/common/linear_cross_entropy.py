"""Cross-entropy over a large vocabulary without all its logits in memory at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lmrecipes.models.common.linear import filled, product, runs_on_onednn

IGNORED = -100
"""A target without a loss."""

# Logits materialized at once: 128 MiB of float32.
_MAX_LOGITS = 2**25
# Rows of the table's gradient accumulated at once on CPU, to stay in cache.
_PIECE = 2**13


def vocabulary_loss(
    hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None = None, max_logits: int = _MAX_LOGITS
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of `hidden @ weight.T + bias`, a few rows at a time.

    Gradients are computed on the way forward, while a chunk's logits are there: three matrix products in all, as with
    all logits at once, and nothing is computed twice. Unlike torch's chunked `F.linear_cross_entropy` it computes in
    autocast's type, returns the loss of every row, and its chunks depend on the vocabulary alone.

    Args:
        hidden: (N, D).
        weight: (V, D).
        targets: int64 (N,); IGNORED where a row does not count.
        bias: (V,).
        max_logits: maximum number of logits in memory.

    Returns:
        The mean over rows that count, 0 if there are none; and each row's loss (N,), without gradient.
    """
    if hidden.is_cpu:
        # On GPU, indexing by the mask would synchronize.
        counted = (targets != IGNORED).nonzero().squeeze(1)
        if len(filled(counted)) < len(targets):
            chosen = filled(counted)
            labels = targets[chosen]
            labels[len(counted) :] = IGNORED
            mean, losses = vocabulary_loss(hidden[chosen], weight, labels, bias, max_logits)
            return mean, losses.new_zeros(targets.shape).index_copy(0, counted, losses[: len(counted)])
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    rows = max(max_logits // weight.shape[0], 1)
    # A multiple of 32, as `filled` gives, so that the last piece has one of few sizes.
    mean, losses = _VocabularyLoss.apply(hidden, weight, targets, bias, dtype, rows - rows % 32 or rows)
    return mean, losses


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
                labels = targets[part]
                counts = labels != IGNORED
                index = labels.clamp(min=0)[:, None]
                logits = product(x[part], table).float()
                if bias is not None:
                    logits += bias
                label_logits = logits.gather(1, index).squeeze(1)
                if not (needs_hidden or needs_weight or needs_bias):
                    losses[part] = (logits.logsumexp(-1) - label_logits) * counts
                    continue
                # The log-normalizer from the maximum logit and its log-probability.
                max_logit = logits.amax(-1)
                grad = logits.softmax(-1)
                del logits
                losses[part] = (max_logit - grad.amax(-1).log() - label_logits) * counts
                grad.scatter_add_(1, index, grad.new_full((1, 1), -1).expand_as(index))
                # Mask uncounted rows on the short gradient, not on the logits.
                real = counts[:, None].to(dtype)
                if d_bias is not None:
                    d_bias += (real.float().t() @ grad).squeeze(0)
                low = grad.to(dtype)
                del grad
                if d_hidden is not None:
                    d_hidden[part] = product(low, table.t()) * real
                if d_weight is not None:
                    _add_product(d_weight, low, x[part] * real)
        ctx.save_for_backward(counted, d_hidden, d_weight, d_bias)
        ctx.dtypes = hidden.dtype, weight.dtype, None if bias is None else bias.dtype
        ctx.mark_non_differentiable(losses)
        return losses.sum() / counted, losses

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        counted, *gradients = ctx.saved_tensors
        # These are gradients of the sum of the losses.
        d_hidden, d_weight, d_bias = (
            None if gradient is None else gradient.mul_(grad / counted).to(dtype)
            for gradient, dtype in zip(gradients, ctx.dtypes, strict=True)
        )
        return d_hidden, d_weight, None, d_bias, None, None


def _add_product(total: Tensor, grad: Tensor, x: Tensor) -> None:
    """Adds the product of grad's transpose and x."""
    if grad.dtype == total.dtype and not runs_on_onednn(grad, x):
        total.addmm_(grad.t(), x)
        return
    step = _PIECE if total.is_cpu else len(total)
    for start in range(0, len(total), step):
        piece = slice(start, start + step)
        total[piece] += product(grad[:, piece].contiguous().t(), x.t())


def linear_nll(hidden_ND: Tensor, targets_N: Tensor, *parts: Tensor) -> Tensor:
    """Negative log-likelihood under a linear layer and softmax, float32 of shape (N,).

    Args:
        hidden_ND: inputs of the layer.
        targets_N: the right class of each.
        parts: weight (V_i, D) and bias (V_i,) of the layer in one or more pieces, which are concatenated.
    """
    if torch.is_autocast_enabled(hidden_ND.device.type):
        dtype = torch.get_autocast_dtype(hidden_ND.device.type)
        hidden_ND, parts = hidden_ND.to(dtype), tuple(part.to(dtype) for part in parts)
    out: Tensor = _LinearNLL.apply(hidden_ND, targets_N, *parts)
    return out


class _LinearNLL(torch.autograd.Function):
    """`linear_nll` with one (N, V) tensor, which its own gradient overwrites."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, *parts: Tensor) -> Tensor:
        weights, biases = parts[::2], parts[1::2]
        logits = hidden.new_empty(hidden.shape[0], sum(b.shape[0] for b in biases))
        start = 0
        with torch.autocast(hidden.device.type, enabled=False):
            for weight, bias in zip(weights, biases, strict=True):
                torch.add(product(hidden, weight), bias, out=logits[:, start : start + bias.shape[0]])
                start += bias.shape[0]
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            lse = logits.logsumexp(-1)
            nll = lse - logits.gather(1, targets[:, None]).squeeze(1)
        ctx.save_for_backward(hidden, targets, logits, lse, *weights)
        return nll

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, targets, logits, lse, *weights = ctx.saved_tensors
        # Reuse the logits' memory for their gradient.
        d_logits = logits.sub_(lse[:, None]).exp_()
        d_logits.scatter_add_(1, targets[:, None], d_logits.new_full((len(targets), 1), -1.0)).mul_(grad[:, None])
        d_logits = d_logits.to(hidden.dtype)
        d_hidden, d_parts, start = None, [], 0
        for weight in weights:
            d_part = d_logits[:, start : start + weight.shape[0]]
            start += weight.shape[0]
            d_piece = product(d_part, weight.t())
            d_hidden = d_piece if d_hidden is None else d_hidden.add_(d_piece)
            d_parts += [product(d_part.t(), hidden.t()), d_part.sum(0)]
        return d_hidden, None, *d_parts
