"""Cross-entropy over a large vocabulary equals torch's own, with one chunk of the logits in memory at a time."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from conftest import environment, requires
from lmrecipes.models.common.linear_cross_entropy import IGNORED, _VocabularyLoss, vocabulary_loss


def example(bias: bool, n: int = 21, width: int = 12, vocabulary: int = 50):
    torch.manual_seed(0)
    hidden, weight = torch.randn(n, width), torch.randn(vocabulary, width)
    targets = torch.randint(vocabulary, (n,))
    targets[[2, 7, n - 1]] = IGNORED
    leaves = [hidden, weight, *([torch.randn(vocabulary)] if bias else [])]
    return [leaf.requires_grad_() for leaf in leaves], targets


# The larger weight gradient is accumulated in two pieces; large scales give most tokens a probability of 0.
@pytest.mark.parametrize(
    ("max_logits", "vocabulary", "scale"), [(1, 50, 1), (150, 50, 100), (10_000, 50, 1), (40_000, 9000, 1)]
)
@pytest.mark.parametrize("bias", [False, True])
def test_loss_and_gradients_equal_those_of_torch(bias, max_logits, vocabulary, scale):
    leaves, targets = example(bias, vocabulary=vocabulary)
    hidden, weight, *rest = leaves
    logits = F.linear(scale * hidden, weight, *rest)
    expected = F.cross_entropy(logits, targets)
    wanted = torch.autograd.grad(expected * 3, leaves)
    loss, losses = vocabulary_loss(scale * hidden, weight, targets, *rest, max_logits=max_logits)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(losses, F.cross_entropy(logits, targets, reduction="none"))
    assert not losses.requires_grad
    for ours, theirs in zip(torch.autograd.grad(loss * 3, leaves), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1.3e-6, atol=1e-5 * scale)


# On a CPU ignored rows are removed beforehand; a GPU masks them.
@pytest.mark.parametrize("max_logits", [4, 21])
def test_masked_rows_have_no_loss_and_no_gradient(max_logits):
    leaves, targets = example(bias=True)
    expected = F.cross_entropy(F.linear(*leaves), targets)
    loss, losses = _VocabularyLoss.apply(leaves[0], leaves[1], targets, leaves[2], torch.float32, max_logits)
    torch.testing.assert_close(loss, expected)
    assert not losses[targets == IGNORED].any()
    wanted = torch.autograd.grad(expected, leaves)
    for ours, theirs in zip(torch.autograd.grad(loss, leaves), wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


@requires(hasattr(F, "linear_cross_entropy"), "this torch has no F.linear_cross_entropy")
def test_it_agrees_with_torchs_fused_loss():
    leaves, targets = example(bias=False)
    expected = F.linear_cross_entropy(*leaves, targets)
    torch.testing.assert_close(vocabulary_loss(*leaves, targets)[0], expected)


def test_a_batch_without_targets_has_zero_loss_and_zero_gradients():
    leaves, targets = example(bias=True)
    hidden, weight, bias = leaves
    loss, _ = vocabulary_loss(hidden, weight, torch.full_like(targets, IGNORED), bias)
    assert loss == 0
    assert not any(gradient.any() for gradient in torch.autograd.grad(loss, leaves))


def test_autocast_computes_in_its_dtype_and_returns_gradients_in_that_of_the_leaves():
    leaves, targets = example(bias=True)
    hidden, weight, bias = leaves
    exact = torch.autograd.grad(vocabulary_loss(hidden, weight, targets, bias)[0], leaves)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = vocabulary_loss(hidden, weight, targets, bias)
    assert loss.dtype == torch.float32
    for low, high in zip(torch.autograd.grad(loss, leaves), exact, strict=True):
        assert low.dtype == torch.float32
        assert not torch.equal(low, high)
        torch.testing.assert_close(low, high, atol=0.05, rtol=0.05)


_PEAK = """
import resource, torch
from lmrecipes.models.common.linear_cross_entropy import vocabulary_loss
hidden, weight = torch.randn(256, 4, requires_grad=True), torch.randn(250112, 4, requires_grad=True)
targets = torch.randint(250112, (256,))
vocabulary_loss(hidden[:8], weight, targets[:8])[0].backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
vocabulary_loss(hidden, weight, targets, max_logits=2**22)[0].backward()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
@requires(sys.platform == "linux", "peak memory is read as Linux gives it")
def test_the_logits_are_never_in_memory_at_once():
    done = subprocess.run([sys.executable, "-c", _PEAK], env=environment(), capture_output=True, text=True, check=True)
    # In full they take 244 MiB, and their gradient as much again; a chunk takes 16 MiB.
    assert float(done.stdout) < 100
