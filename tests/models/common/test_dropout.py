import pytest
import torch

from lmrecipes.models.common.dropout import Dropout, kept


@pytest.mark.parametrize("p", [0.1, 0.25, 0.5, 0.9])
def test_elements_are_dropped_with_probability_p_and_independently(p):
    torch.manual_seed(0)
    mask = kept(torch.Size([1000, 1000]), p).float()
    deviation = (p * (1 - p) / mask.numel()) ** 0.5
    assert 1 - mask.mean().item() == pytest.approx(p, abs=4 * deviation)
    for apart in (1, 2, 3, 4, 1000):
        flat = mask.flatten()
        both = (flat[:-apart] * flat[apart:]).mean().item()
        assert both == pytest.approx((1 - p) ** 2, abs=6 * deviation)


def test_dropout_preserves_the_mean_and_the_gradient_follows_the_mask():
    torch.manual_seed(0)
    x = torch.ones(200, 300, requires_grad=True)
    out = Dropout(0.3)(x)
    assert out.mean().item() == pytest.approx(1, abs=0.01)
    assert out.unique().tolist() == pytest.approx([0, 1 / 0.7])
    out.sum().backward()
    torch.testing.assert_close(x.grad, out.detach())


@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 0), (2, 3, 7)])
def test_shape_and_dtype_are_preserved(shape):
    x = torch.ones(shape, dtype=torch.bfloat16)
    out = Dropout(0.5)(x)
    assert out.shape == x.shape
    assert out.dtype == x.dtype


def test_dropout_is_determined_by_the_seed():
    def draw(seed):
        torch.manual_seed(seed)
        return Dropout(0.5)(torch.ones(100))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_evaluation_drops_nothing():
    x = torch.randn(10)
    assert torch.equal(Dropout(0.5).eval()(x), x)
