"""Dropout whose random numbers do not hold up a CPU.

torch draws one number after another on a single core for every element, a tenth of a training step and more. Here one
draw of 64 bits decides four elements.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def kept(shape: torch.Size, p: float) -> Tensor:
    """What dropout keeps, drawn on the CPU: bool of that shape, False with probability p to within 1/65,536."""
    n = math.prod(shape)
    draws = torch.empty(n // 4 + 1, dtype=torch.int64).random_(-(2**63), None)
    return (draws.view(torch.int16)[:n] >= round(p * 2**16) - 2**15).view(shape)


def scaled(x: Tensor, mask: Tensor, scale: float) -> Tensor:
    """x * mask * scale, in one pass."""
    out: Tensor = torch.ops.aten.native_dropout_backward(x, mask, scale)
    return out


def dropout(x: Tensor, p: float) -> Tensor:
    """`F.dropout` in training."""
    if type(x) is not Tensor or not x.is_cpu or torch.compiler.is_compiling():
        return F.dropout(x, p)
    out: Tensor = _Dropout.apply(x, p)
    return out


class Dropout(nn.Module):
    """As torch's: in training, elements become zero with probability p and the others grow by 1 / (1 - p)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """A tensor of the same shape."""
        return dropout(x, self.p) if self.training and self.p else x

    def extra_repr(self) -> str:
        """The probability, for print."""
        return f"p={self.p}"


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        mask = kept(x.shape, p)
        ctx.save_for_backward(mask)
        ctx.scale = 1 / (1 - p)
        return scaled(x, mask, ctx.scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return scaled(grad, mask, ctx.scale), None
