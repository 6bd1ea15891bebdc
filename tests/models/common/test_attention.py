"""Attention on a CPU equals torch's own, with dropout and any mask."""

import pytest
import torch

from lmrecipes.models.common.attention import attend

# So small that it drops nothing, but the dropout code runs.
ALMOST_NONE = 1e-9
B, N, T, S, H = 2, 3, 5, 7, 4


def masks():
    torch.manual_seed(1)
    seen = torch.rand(B, 1, T, S) < 0.6
    seen[..., 0] = True
    return {
        "none": None,
        "columns": seen[:, :, :1],
        "pairs": seen,
        "added": torch.randn(1, N, T, S),
        "both": torch.randn(1, N, T, S).masked_fill(~seen, -torch.inf),
        "rows": torch.randn(1, N, 1, S),
        "flat": torch.ones(T, S, dtype=torch.bool).tril(1),
    }


@pytest.mark.parametrize("name", masks())
def test_dropout_changes_neither_attention_nor_its_gradients(name):
    mask = masks()[name]
    learned = mask is not None and mask.is_floating_point()
    results = []
    for p in (0.0, ALMOST_NONE):
        torch.manual_seed(0)
        inputs = [torch.randn(B, N, length, H, requires_grad=True) for length in (T, S, S)]
        own = mask.clone().requires_grad_(True) if learned else mask
        out = attend(*inputs, own, scale=0.3, p=p)
        (out * torch.arange(out.numel()).view_as(out).sin()).sum().backward()
        results.append([out, *(x.grad for x in inputs), *([own.grad] if learned else [])])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_attention_weights_are_dropped():
    torch.manual_seed(0)
    q = torch.randn(B, N, T, H)
    assert (attend(q, q, q, None, scale=1.0, p=0.9) == 0).any()


@pytest.mark.parametrize("name", masks())
def test_autocast_heads_accept_a_float32_mask(name):
    torch.manual_seed(0)
    mask, inputs = masks()[name], [torch.randn(B, N, length, H) for length in (T, S, S)]
    exact = attend(*inputs, mask, scale=0.3)
    with torch.autocast("cpu", torch.bfloat16):
        for p in (0.0, ALMOST_NONE):
            results = attend(*(x.bfloat16() for x in inputs), mask, scale=0.3, p=p)
            assert results.dtype == torch.bfloat16
            torch.testing.assert_close(results.float(), exact, rtol=0.05, atol=0.05)
