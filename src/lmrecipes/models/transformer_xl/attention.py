"""Attention with relative positions (Dai et al. 2019, arXiv:1901.02860, section 3.3 and appendix B).

B batch, T tokens of the segment, K = M + T tokens of memory and segment, N heads, H head size.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lmrecipes.models.common.dropout import kept, scaled


def masked_positions(T: int, M: int, mem_len: int, same_length: bool, device: torch.device) -> Tensor:
    """Which of the K = M + T tokens each of T tokens may not attend to: bool (T, K).

    Always the future; with `same_length` also everything more than mem_len tokens back, so that every token has a
    context of the same length.
    """
    distance = torch.arange(M, M + T, device=device)[:, None] - torch.arange(M + T, device=device)
    masked = distance < 0
    if same_length:
        masked = masked | (distance > mem_len)
    return masked


def relative_shift(scores: Tensor) -> Tensor:
    """Moves row i of (..., T, K) scores by distance so that column j holds key j: (..., T, K).

    Column c of the input belongs to distance K - 1 - c. Row i wants column c = j + T - 1 - i for key j, which in a
    contiguous tensor is a mere change of strides. What it reads beyond a row's end belongs to the future.
    """
    *lead, T, K = scores.shape
    flat = scores.reshape(*lead, T * K)
    rows = flat[..., T - 1 : T * K - 1].reshape(*lead, T, K - 1)
    # Key K - 1 is in the future of every row but the last, where it is the last score of all.
    column = F.pad(flat[..., T * K - 1 :].unsqueeze(-2), (0, 0, T - 1, 0))
    return torch.cat([rows, column], dim=-1)


def relative_attention(
    q_BNTH: Tensor,
    k_BNKH: Tensor,
    v_BNKH: Tensor,
    r_NKH: Tensor,
    content_bias_NH: Tensor,
    position_bias_NH: Tensor,
    masked_TK: Tensor,
    dropout: float,
) -> Tensor:
    """Attends by content and distance: softmax(((q + u) k + shift((q + v) r)) / sqrt(H)) values, (B, N, T, H).

    Args:
        q_BNTH: queries of the segment.
        k_BNKH: keys of memory and segment.
        v_BNKH: values of memory and segment.
        r_NKH: keys of the distances K - 1 ... 0.
        content_bias_NH: u of the paper.
        position_bias_NH: v of the paper.
        masked_TK: positions that may not be attended to.
        dropout: probability of dropping an attention weight.
    """
    arguments = (q_BNTH, k_BNKH, v_BNKH, r_NKH, content_bias_NH.to(q_BNTH.dtype), position_bias_NH.to(q_BNTH.dtype))
    if q_BNTH.is_cuda or torch.compiler.is_compiling():
        return biased_attention(*arguments, masked_TK, dropout)
    out: Tensor = _RelativeAttention.apply(*arguments, masked_TK, dropout)
    return out


def biased_attention(
    q: Tensor, k: Tensor, v: Tensor, r: Tensor, u: Tensor, w: Tensor, masked: Tensor, p: float
) -> Tensor:
    """`relative_attention` with torch's fused kernel, the distances entering as its bias."""
    scale = q.shape[-1] ** -0.5
    by_distance = torch.matmul((q + w[:, None]) * scale, r.transpose(-1, -2))
    bias = relative_shift(by_distance).masked_fill(masked, -torch.inf)
    return F.scaled_dot_product_attention(q + u[:, None], k, v, attn_mask=bias, dropout_p=p, scale=scale)


class _RelativeAttention(torch.autograd.Function):
    """`relative_attention` in few passes over the (T, K) scores, which is what costs time on a CPU."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, r: Tensor, u: Tensor, w: Tensor, masked: Tensor, dropout: float
    ) -> Tensor:
        (B, N, T, H), K = q.shape, k.shape[2]
        scale = H**-0.5
        with torch.autocast(q.device.type, enabled=False):
            qu = ((q + u[:, None]) * scale).reshape(B * N, T, H)
            qw = (q + w[:, None]) * scale
            by_distance = torch.matmul(qw, r.transpose(-1, -2)).contiguous()
            shifted = by_distance.as_strided((B * N, T, K), (T * K, K - 1, 1), T - 1)
            k_, v_ = k.reshape(B * N, K, H), v.reshape(B * N, K, H)
            scores = torch.baddbmm(shifted, qu, k_.transpose(1, 2)).masked_fill_(masked, -torch.inf)
            weights = torch.softmax(scores, dim=-1)
            mask = kept(weights.shape, dropout) if dropout else None
            out = torch.bmm(weights if mask is None else scaled(weights, mask, 1 / (1 - dropout)), v_)
        ctx.save_for_backward(qu, qw, k_, v_, r, weights, mask)
        ctx.scale, ctx.dropout = scale, dropout
        return out.view(B, N, T, H)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        qu, qw, k, v, r, weights, mask = ctx.saved_tensors
        (B, N, T, H), K = qw.shape, k.shape[1]
        grad = grad.reshape(B * N, T, H).to(v.dtype)
        dropped, d_weights = weights, torch.bmm(grad, v.transpose(1, 2))
        if mask is not None:
            dropped, d_weights = (scaled(x, mask, 1 / (1 - ctx.dropout)) for x in (weights, d_weights))
        d_v = torch.bmm(dropped.transpose(1, 2), grad)
        d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
        d_qu = torch.bmm(d_scores, k)
        d_k = torch.bmm(d_scores.transpose(1, 2), qu)
        # The shift backwards: rows of K - 1 lie one after the other from position T - 1 on, then the very last score.
        d_distance = d_scores.new_empty(B * N, T * K)
        d_distance[:, : T - 1] = 0
        d_distance[:, T - 1 : T * K - 1].view(B * N, T, K - 1).copy_(d_scores[:, :, : K - 1])
        d_distance[:, T * K - 1] = d_scores[:, T - 1, K - 1]
        d_distance = d_distance.view(B, N, T, K)
        d_qw = torch.matmul(d_distance, r)
        d_r = torch.matmul(d_distance.transpose(-1, -2), qw).sum(0)
        d_qu = d_qu.view(B, N, T, H).mul_(ctx.scale)
        d_qw = d_qw.mul_(ctx.scale)
        return (
            d_qu + d_qw,
            d_k.view(B, N, K, H),
            d_v.view(B, N, K, H),
            d_r,
            d_qu.sum((0, 2)),
            d_qw.sum((0, 2)),
            None,
            None,
        )
