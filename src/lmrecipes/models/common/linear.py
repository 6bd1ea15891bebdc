"""Linear layers by the faster of the two matrix libraries that torch brings for CPUs.

torch sends float32 products to MKL, which uses the 512-bit units of Intel's processors only. Where another maker's
processor has them too, oneDNN computes the same product up to 2.3 times faster (benchmarks/transformer_xl_speed.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@cache
def onednn_is_faster() -> bool:
    """Whether oneDNN is the faster float32 GEMM: AVX-512, not Intel, and a torch with the operator."""
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return False
    try:
        intel = "GenuineIntel" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
        onednn_product(torch.ones(1, 1), torch.ones(1, 1))
    except (OSError, AttributeError, RuntimeError):
        return False
    return not intel


def onednn_product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., I) times the transpose of weight (O, I), plus bias (O,), by oneDNN: (..., O). Knows no gradient."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(dense(x), dense(weight), bias, "none", [], "")
    return product


def dense(x: Tensor) -> Tensor:
    """The tensor, or a copy where gaps lie between its rows: oneDNN would be hundreds of times slower."""
    return x if x.is_contiguous() or x.transpose(-1, -2).is_contiguous() else x.contiguous()


def runs_on_onednn(*tensors: Tensor) -> bool:
    """Whether this product runs on oneDNN: plain, non-empty float32 CPU tensors outside of compilation."""
    return (
        not torch.compiler.is_compiling()
        and all(type(t) in (Tensor, nn.Parameter) and t.dtype == torch.float32 and t.is_cpu for t in tensors)
        and all(t.numel() for t in tensors)
        and not torch.is_autocast_enabled("cpu")
        and onednn_is_faster()
    )


def filled(rows: Tensor) -> Tensor:
    """Rows whose number depends on the data, with rows of zeros up to a round number; on GPUs as they are.

    A multiple of 32, and of a 32nd of the power of two below: at most 3 % more for large numbers. oneDNN compiles
    kernels for every number of rows that it meets, and keeps them: memory would grow for hours.
    """
    n_more = -len(rows) % max(32, 1 << max(len(rows).bit_length() - 6, 0))
    if not n_more or not rows.is_cpu or torch.compiler.is_compiling():
        return rows
    return F.pad(rows, (*[0, 0] * (rows.dim() - 1), 0, n_more))


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x (N, I) times the transpose of weight (O, I), for use where no gradient is recorded: (N, O)."""
    return onednn_product(x, weight) if runs_on_onednn(x, weight) else x @ weight.t()


_exporting_for_here: ContextVar[bool] = ContextVar("exporting_for_here", default=False)


@contextmanager
def export_for_this_machine() -> Iterator[None]:
    """What torch.export traces within calls the library that is the faster one here."""
    token = _exporting_for_here.set(onednn_is_faster())
    try:
        yield
    finally:
        _exporting_for_here.reset(token)


class Linear(nn.Linear):
    """torch's linear layer; parameters, initialization and results are the same."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        if _exporting_for_here.get() and x.is_cpu and x.dtype == torch.float32 and torch.compiler.is_exporting():
            return onednn_product(x, self.weight, self.bias)
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`: x (..., I), weight (O, I) and bias (O,) to (..., O)."""
    if not runs_on_onednn(x, weight):
        return F.linear(x, weight, bias)
    out: Tensor = _Linear.apply(x, weight, bias)
    return out


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return onednn_product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        d_x = onednn_product(grad, weight.t()) if ctx.needs_input_grad[0] else None
        d_weight = onednn_product(rows.t(), x.reshape(-1, x.shape[-1]).t()) if ctx.needs_input_grad[1] else None
        return d_x, d_weight, rows.sum(0) if ctx.has_bias else None
