"""Metrics of replaced token detection equal those of torchmetrics, over any number of batches."""

import torch
from torchmetrics.classification import BinaryAccuracy, BinaryAUROC, BinaryPrecision, BinaryRecall

from lmrecipes.metrics.replaced_tokens import ReplacedTokens


def test_metrics_equal_those_of_torchmetrics():
    torch.manual_seed(0)
    ours = ReplacedTokens()
    theirs = [BinaryAccuracy(0.5), BinaryPrecision(0.5), BinaryRecall(0.5), BinaryAUROC()]
    names = [f"discriminator_{name}" for name in ("accuracy", "precision", "recall", "auc")]
    share = []
    for n in (300, 17):
        replaced = torch.rand(n) < 0.15
        logits = torch.randn(n) * 2 - 3 + 2 * replaced
        originals = torch.randint(0, 5, (40,))
        generator_logits = torch.randn(40, 5)
        generator_logits[:10, :] = torch.nn.functional.one_hot(originals[:10], 5) * 20.0
        sampled = torch.where(torch.arange(40) < 4, originals, originals + 1)
        ours.update(generator_logits, originals, sampled, logits, replaced)
        for metric in theirs:
            metric.update(logits.sigmoid(), replaced.long())
        share.append((int(replaced.sum()), n))
    metrics = ours.compute()
    for name, metric in zip(names, theirs, strict=True):
        torch.testing.assert_close(metrics[name].float(), metric.compute(), atol=2e-4, rtol=0)
    assert metrics["sampled_accuracy"] == 0.1
    assert metrics["generator_accuracy"] >= 0.25
    assert metrics["replaced_share"] == sum(a for a, _ in share) / 317


def test_uninformative_scores_have_auc_one_half():
    metrics = ReplacedTokens()
    metrics.update(torch.randn(2, 3), torch.zeros(2).long(), torch.zeros(2).long(), torch.zeros(8), torch.arange(8) < 3)
    assert metrics.compute()["discriminator_auc"] == 0.5


def test_precision_is_undefined_without_positive_predictions():
    metrics = ReplacedTokens()
    metrics.update(torch.randn(2, 3), torch.zeros(2).long(), torch.zeros(2).long(), -torch.ones(8), torch.arange(8) < 3)
    computed = metrics.compute()
    assert computed["discriminator_precision"].isnan()
    assert computed["discriminator_recall"] == 0
