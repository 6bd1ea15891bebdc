"""Attention by torch's fused kernels, and beside them where those are slow."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lmrecipes.models.common.dropout import dropout


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, scale: float, p: float = 0.0) -> Tensor:
    """Attention of heads.

    Args:
        q: queries (B, n, T, h).
        k: keys (B, n, S, h).
        v: values (B, n, S, h).
        mask: bool, False where nothing is seen, or numbers that are added to the scores; broadcast to (B, n, T, S).
        scale: factor of the scores.
        p: probability of dropping an attention weight.

    Returns:
        (B, n, T, h).
    """
    if _faster_in_steps(q, p):
        return _in_steps(q, k, v, mask, scale, p)
    return F.scaled_dot_product_attention(q, k, v, mask, p, scale=scale)


def _faster_in_steps(q: Tensor, p: float) -> bool:
    """Whether two products with a softmax between them beat torch's own attention: on CPUs where its kernel is slow."""
    if not q.is_cpu or torch.compiler.is_compiling():
        return False
    # With dropout a CPU has no fused kernel, and draws random numbers one by one. In bfloat16 the fused kernel
    # leaves the processor's products of that type unused, unless it has AMX; in steps, scores are rounded to bfloat16
    # as eager attention does.
    return p > 0 or (q.dtype == torch.bfloat16 and not torch.cpu._is_amx_tile_supported())


def _in_steps(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, p: float) -> Tensor:
    B, n, _, _ = q.shape
    bias = q.new_zeros(1, 1, 1)
    if mask is not None:
        added = q.new_zeros(mask.shape).masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else mask
        # Match autocast's rounding of the bias in torch's own attention.
        bias = added.to(q.dtype).expand(B, n, *added.shape[-2:]).flatten(0, 1)
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    # Autocast would copy the weights to float32; softmax accumulates in float32 anyway.
    with torch.autocast("cpu", enabled=False):
        weights = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=scale).softmax(-1)
        return torch.bmm(dropout(weights, p) if p else weights, v).unflatten(0, (B, n))
