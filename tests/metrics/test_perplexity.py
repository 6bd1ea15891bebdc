"""Loss and perplexity weight every token equally, however tokens are batched."""

import math

import pytest
import torch

from lmrecipes.batches import TextStatistics
from lmrecipes.metrics.group_loss import GroupLoss
from lmrecipes.metrics.perplexity import TokenLoss, text_metrics
from lmrecipes.metrics.replaced_tokens import ReplacedTokens


def test_batches_of_any_size_give_the_mean_over_tokens():
    torch.manual_seed(0)
    nll = torch.rand(1000) * 5
    metric = TokenLoss()
    for portion in nll.split([1, 9, 90, 900]):
        metric.update(portion)
    assert metric.compute().item() == pytest.approx(nll.double().mean().item(), rel=1e-12)


def test_millions_of_tokens_lose_no_precision():
    metric = TokenLoss()
    for _ in range(300):
        metric.update(torch.full((100_000,), 0.1))
    assert metric.compute().item() == pytest.approx(0.1, rel=1e-7)


@pytest.mark.parametrize("metric", [TokenLoss(), GroupLoss("ab"), ReplacedTokens()], ids=lambda m: type(m).__name__)
def test_sums_keep_double_precision_when_the_model_is_cast(metric):
    torch.nn.ModuleDict({"sums": metric}).bfloat16().to(torch.bfloat16)
    metric.set_dtype(torch.float16)
    assert {getattr(metric, name).dtype for name in metric._defaults} == {torch.float64}


def test_perplexity_bits_per_byte_and_other_units():
    loss = torch.tensor(2.0)
    spelled = text_metrics(loss, TextStatistics(tokens=100, words=50, characters=400, spells=True))
    assert spelled["perplexity"].item() == pytest.approx(math.exp(2))
    assert spelled["word_perplexity"].item() == pytest.approx(math.exp(4))
    assert spelled["bits_per_char"].item() == pytest.approx(0.5 / math.log(2))
    words = text_metrics(loss, TextStatistics(tokens=100, words=100, characters=400, spells=False))
    assert set(words) == {"loss", "perplexity"}
