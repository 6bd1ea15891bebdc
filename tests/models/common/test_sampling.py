"""Tokens are drawn from the model's distribution, at any temperature."""

import pytest
import torch

from lmrecipes.models.common.sampling import Sampling


@pytest.mark.parametrize("temperature", [1e-300, 1e-30, 1e-3])
def test_a_temperature_near_0_is_greedy(temperature):
    log_probs = torch.tensor([[-3.0, -0.5, -1.0], [-200.0, -300.0, -100.0]])
    assert Sampling(temperature=temperature).draw(log_probs).tolist() == [[1], [2]]


def test_tokens_are_drawn_from_the_distribution():
    torch.manual_seed(0)
    log_probs = torch.tensor([0.2, 0.5, 0.3]).log()
    drawn = Sampling(temperature=0.5).draw(log_probs.expand(20_000, -1))
    expected = (log_probs / 0.5).softmax(-1)
    torch.testing.assert_close(drawn.flatten().bincount(minlength=3) / 20_000, expected, atol=0.02, rtol=0)
