"""The answer-span heads equal the published ones, computed one example and one start at a time."""

import pytest
import torch
import torch.nn.functional as F

from lmrecipes.models.electra import ReaderConfig
from lmrecipes.models.electra.heads import Gold, GoogleHead, NvidiaHead, SimpleHead

B, T, D, BEAM = 3, 9, 8, 3
REAL = torch.arange(T) < torch.tensor([[9], [7], [8]])
# [CLS], then the context after a question of two tokens and a [SEP].
ALLOWED = REAL & ((torch.arange(T) == 0) | (torch.arange(T) > 3))
GOLD = Gold(torch.tensor([5, 0, 4]), torch.tensor([6, 0, 4]), torch.tensor([0.0, 1.0, 0.0]))


def build_head(kind, **more):
    torch.manual_seed(0)
    config = ReaderConfig(d_model=D, n_heads=2, beam=BEAM, d_answer=5, **more)
    head = kind(config)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    return head, torch.randn(B, T, D)


def concatenate_linear(pair, first, second):
    """The two halves of a linear layer as one layer of the concatenated vectors."""
    weight = torch.cat([pair.first.weight, pair.second.weight], dim=1)
    return F.linear(torch.cat([first, second]), weight, pair.first.bias)


def google_end(head, h, start):
    return head.end(F.gelu(concatenate_linear(head.end_hidden, start, h)))


def google_answer(head, hidden, start_logits, gold):
    expected = sum(p * h for p, h in zip(start_logits.softmax(0), hidden, strict=True))
    return head.answer(F.gelu(concatenate_linear(head.answer_hidden, hidden[0], expected)))


def nvidia_end(head, h, start):
    return head.end(
        F.layer_norm(concatenate_linear(head.end_hidden, h, start).tanh(), (D,), *head.end_norm.parameters(), 1e-12)
    )


def nvidia_answer(head, hidden, start_logits, gold):
    expected = sum(p * h for p, h in zip(start_logits.softmax(0), hidden, strict=True))
    return head.answer(
        concatenate_linear(head.answer_hidden, expected if gold is None else hidden[gold], hidden[0]).tanh()
    )


KINDS = [(GoogleHead, google_end, google_answer, 1000.0), (NvidiaHead, nvidia_end, nvidia_answer, 1e30)]


def masked(logits, allowed, by):
    return torch.stack([x if ok else x - by for x, ok in zip(logits, allowed, strict=True)])


@pytest.mark.parametrize(("kind", "end", "answer", "by"), KINDS)
@pytest.mark.parametrize("answerable", [True, False])
def test_a_joint_heads_loss_equals_one_example_at_a_time(kind, end, answer, by, answerable):
    head, hidden = build_head(kind, answerable=answerable)
    losses = []
    for h, allowed, start, stop, impossible in zip(hidden, ALLOWED, *GOLD, strict=True):
        start_logits = masked(torch.cat([head.start(token) for token in h]), allowed, by)
        end_logits = masked(torch.cat([end(head, token, h[start]) for token in h]), allowed, by)
        loss = (F.cross_entropy(start_logits, start) + F.cross_entropy(end_logits, stop)) / 2
        if answerable:
            odds = answer(head, h, start_logits, int(start)).squeeze()
            loss = loss + 0.5 * F.binary_cross_entropy_with_logits(odds, impossible)
        losses.append(loss)
    torch.testing.assert_close(head.loss(hidden, REAL, ALLOWED, GOLD), torch.stack(losses).mean())


@pytest.mark.parametrize(("kind", "end", "answer", "by"), KINDS)
@pytest.mark.parametrize("answerable", [True, False])
def test_a_joint_head_finds_the_best_ends_of_the_best_starts(kind, end, answer, by, answerable):
    head, hidden = build_head(kind, answerable=answerable)
    result = head.find(hidden, ALLOWED)
    assert result.starts.shape == (B, BEAM * BEAM)
    for i, (h, allowed) in enumerate(zip(hidden, ALLOWED, strict=True)):
        start_logits = masked(torch.cat([head.start(token) for token in h]), allowed, by)
        spans = {}
        for start in start_logits.topk(BEAM).indices.tolist():
            ends = masked(torch.cat([end(head, token, h[start]) for token in h]), allowed, by).log_softmax(0)
            for stop in ends.topk(BEAM).indices.tolist():
                spans[start, stop] = (start_logits.log_softmax(0)[start] + ends[stop]).item()
        scores = (result.start_scores + result.end_scores)[i].tolist()
        ours = dict(zip(zip(result.starts[i].tolist(), result.ends[i].tolist(), strict=True), scores, strict=True))
        assert ours == pytest.approx(spans, abs=1e-4)
        if answerable:
            null = answer(head, h, start_logits, None).item()
        else:
            first = masked(torch.cat([end(head, token, h[0]) for token in h]), allowed, by).log_softmax(0)
            null = (start_logits.log_softmax(0)[0] + first[0]).item()
        assert result.null[i].item() == pytest.approx(null, abs=1e-4)
    assert head.null_is_odds is answerable


def test_a_beam_larger_than_the_candidates_is_padded_with_minus_infinity():
    head, hidden = build_head(GoogleHead)
    head.beam = 20
    result = head.find(hidden, ALLOWED)
    scores = result.start_scores + result.end_scores
    for i, allowed in enumerate(ALLOWED):
        good = allowed.gather(0, result.starts[i]) & allowed.gather(0, result.ends[i])
        assert int(good.sum()) == int(allowed.sum()) ** 2
        assert torch.equal(scores[i].isfinite(), good)


def test_the_simple_head_ignores_padding():
    head, hidden = build_head(SimpleHead)
    losses = []
    for h, real, start, stop, _ in zip(hidden, REAL, *GOLD, strict=True):
        logits = head.outputs(h[real])
        losses.append((F.cross_entropy(logits[:, 0], start) + F.cross_entropy(logits[:, 1], stop)) / 2)
    torch.testing.assert_close(head.loss(hidden, REAL, ALLOWED, GOLD), torch.stack(losses).mean())
