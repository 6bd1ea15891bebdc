"""The encoder's attention on CPUs, which picks the faster of two implementations."""

import pytest
import torch
import torch.nn.functional as F

from lmrecipes.models.common import attention as common
from lmrecipes.models.common.unpadded import Packing
from lmrecipes.models.electra import encoder

LENGTHS = torch.tensor([40, 17, 1])


def attention(x_3NnH, packing, dtype):
    """Outputs and gradients, both packed, of queries, keys and values (3, N, heads, width)."""
    inputs = x_3NnH.detach().clone().to(dtype).requires_grad_()
    query, key, value = (x[None].transpose(1, 2) for x in inputs)
    module = torch.nn.Module()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        out, _ = encoder._attend(module, query, key, value, None, dropout=0.0, scaling=0.25, packing=packing)
    (out.float() * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
    return out.detach().float(), inputs.grad.float()


@pytest.fixture
def implementations(monkeypatch):
    """Forces attention to use explicit steps or torch's own kernel."""
    return lambda steps: monkeypatch.setattr(common, "_faster_in_steps", lambda q, p: steps)


def test_both_implementations_are_equal(implementations):
    torch.manual_seed(0)
    packing = Packing.of(LENGTHS, torch.device("cpu"))
    x = torch.randn(3, int(LENGTHS.sum()), 2, 16)
    outputs = []
    for steps in (True, False):
        implementations(steps)
        outputs.append(attention(x, packing, torch.float32))
    torch.testing.assert_close(outputs[0], outputs[1])


def eager(q, k, v, mask, scaling, p):
    """Attention as transformers' eager implementation computes it."""
    scores = q @ k.transpose(2, 3) * scaling
    return scores.masked_fill(~mask, -torch.inf).softmax(-1, dtype=torch.float32).to(q.dtype) @ v


@pytest.mark.parametrize("sharpness", [1, 4])
def test_bfloat16_steps_are_as_accurate_as_eager_attention(implementations, monkeypatch, sharpness):
    torch.manual_seed(0)
    packing = Packing.of(LENGTHS, torch.device("cpu"))
    x = torch.randn(3, int(LENGTHS.sum()), 2, 16).bfloat16().float()
    x[0] *= sharpness
    implementations(False)
    exact = attention(x, packing, torch.float32)
    implementations(True)
    errors = []
    for way in (common._in_steps, eager):
        monkeypatch.setattr(common, "_in_steps", way)
        outputs = attention(x, packing, torch.bfloat16)
        errors.append([(a - b).norm() / b.norm() for a, b in zip(outputs, exact, strict=True)])
    for own, eagers in zip(*errors, strict=True):
        assert own < 1.1 * eagers < 0.02


def test_torchs_kernel_is_used_for_float32_and_for_bfloat16_with_amx(monkeypatch):
    calls = []
    real = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: calls.append(a[0].dtype) or real(*a, **k))
    packing, x = Packing.of(LENGTHS, torch.device("cpu")), torch.randn(3, int(LENGTHS.sum()), 2, 16)
    for amx in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        for dtype in (torch.float32, torch.bfloat16):
            attention(x, packing, dtype)
    assert calls == [torch.float32, torch.bfloat16, torch.float32]
