import pytest
import torch
import torch.nn.functional as F

from lmrecipes.models.common import linear as module
from lmrecipes.models.common.linear import Linear, filled, linear, onednn_product, product


@pytest.fixture(params=[True, False], ids=["onednn", "mkl"])
def library(request, monkeypatch):
    """Forces each of the two libraries, whichever is faster on this machine."""
    monkeypatch.setattr(module, "onednn_is_faster", lambda: request.param)


@pytest.mark.parametrize("shape", [(7,), (3, 5, 7), (0, 7)])
@pytest.mark.parametrize("bias", [True, False])
def test_output_and_gradients_equal_those_of_torch(library, shape, bias):
    torch.manual_seed(0)
    layer = Linear(7, 4, bias=bias)
    results = []
    x = torch.randn(shape)
    for run in (layer, lambda x: F.linear(x, layer.weight, layer.bias)):
        layer.zero_grad()
        leaf = x.clone().requires_grad_()
        out = run(leaf)
        (out * torch.arange(4.0)).sum().backward()
        results.append([out, leaf.grad, *(p.grad for p in layer.parameters())])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_frozen_layer_still_propagates_gradients(library):
    layer = Linear(7, 4).requires_grad_(False)
    x = torch.randn(2, 7, requires_grad=True)
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(2, 7))


def test_non_contiguous_matrices_are_multiplied_correctly():
    a, b = torch.randn(6, 20)[:, 3:11], torch.randn(5, 30)[:, 1:9]
    torch.testing.assert_close(onednn_product(a, b), a @ b.t())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_are_preserved(library, dtype):
    x, weight = torch.randn(3, 7, dtype=dtype), torch.randn(4, 7, dtype=dtype)
    assert linear(x, weight).dtype == dtype
    assert product(x, weight).dtype == dtype


def test_autocast_lowers_the_precision_as_in_torch(library):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert Linear(7, 4)(torch.randn(3, 7)).dtype == torch.bfloat16


def test_rows_are_filled_with_zeros_to_few_different_numbers():
    sizes = set()
    for n in range(1, 5000, 7):
        rows = torch.ones(n, 1)
        more = filled(rows)
        assert torch.equal(more[:n], rows)
        assert not more[n:].any()
        assert len(more) - n < max(32, n / 32)
        sizes.add(len(more))
    assert len(sizes) < 150
    assert filled(torch.zeros(0, dtype=torch.long)).shape == (0,)
