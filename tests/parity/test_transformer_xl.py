"""Transformer-XL equals a naive implementation of the paper's equations."""

import pytest
import torch
from naive_transformer_xl import NaiveTransformerXL

from lmrecipes.models.transformer_xl import TransformerXL, TransformerXLConfig
from lmrecipes.models.transformer_xl.attention import biased_attention, masked_positions, relative_attention

SIZES = {"vocab_size": 17, "n_layers": 2, "d_model": 8, "n_heads": 2, "d_head": 3, "d_ff": 10, "dropout": 0.0}
CONFIGS = {
    "plain softmax": {},
    "clusters": {"cutoffs": [5, 11]},
    "narrower clusters": {"cutoffs": [5, 11], "div_val": 2, "tie_projections": [False, True, True]},
    "nothing tied": {"cutoffs": [5, 11], "div_val": 2, "tie_weights": False, "tie_projections": [False] * 3},
    "untied plain": {"tie_weights": False},
    "pre-norm": {"cutoffs": [5], "pre_norm": True},
}
CONTEXTS = {
    "memory as long as a segment": {"mem_len": 4},
    "memory shorter": {"mem_len": 3},
    "memory longer": {"mem_len": 9},
    "clamped": {"mem_len": 6, "clamp_len": 3},
    "same length": {"mem_len": 4, "same_length": True},
    "same length, long memory": {"mem_len": 6, "same_length": True, "clamp_len": 4},
    "no memory": {"mem_len": 0},
}


def build(extra, seed=0):
    torch.manual_seed(seed)
    network = TransformerXL(TransformerXLConfig(**{**SIZES, **extra})).double()
    with torch.no_grad():  # weights large enough that every term matters
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.4)
    return network


def compare(network, context, n_segments=3):
    weights = {name: p.detach().clone().requires_grad_() for name, p in network.named_parameters()}
    naive = NaiveTransformerXL(network.config, weights)
    text = torch.randint(0, 17, (2, 4 * n_segments + 1), generator=torch.Generator().manual_seed(1))
    memory, naive_memory = None, [None, None]
    for s in range(n_segments):
        ids, targets = text[:, 4 * s : 4 * s + 4], text[:, 4 * s + 1 : 4 * s + 5]
        nll, memory = network(ids, targets, memory, **context)
        expected = []
        for b in range(2):
            row, naive_memory[b] = naive.one(ids[b].tolist(), targets[b].tolist(), naive_memory[b], **context)
            expected.append(row)
        torch.testing.assert_close(nll, torch.stack(expected), rtol=1e-5, atol=1e-6)
        network.zero_grad()
        for weight in weights.values():
            weight.grad = None
        nll.mean().backward()
        torch.stack(expected).mean().backward()
        for name, parameter in network.named_parameters():
            got = parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad
            reference = weights[name].grad
            torch.testing.assert_close(
                got, torch.zeros_like(got) if reference is None else reference, rtol=1e-5, atol=1e-6, msg=name
            )


@pytest.mark.parametrize("name", CONFIGS)
def test_loss_and_every_gradient_equal_the_papers_equations(name):
    compare(build(CONFIGS[name]), {"mem_len": 4})


@pytest.mark.parametrize("name", CONTEXTS)
def test_context_settings_equal_the_papers_equations(name):
    compare(build(CONFIGS["clusters"]), CONTEXTS[name])


def test_gradients_are_dense_and_complete_even_for_clusters_without_a_token():
    network = build(CONFIGS["clusters"])
    nll, _ = network(torch.zeros(1, 4, dtype=torch.long), torch.zeros(1, 4, dtype=torch.long), mem_len=0)
    nll.sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.is_sparse, name


@pytest.mark.parametrize("same_length", [False, True])
def test_the_fused_gpu_kernel_gives_the_same_attention_and_gradients(same_length):
    torch.manual_seed(0)
    B, N, T, M, H = 2, 3, 5, 4, 8
    shapes = [(B, N, T, H), (B, N, M + T, H), (B, N, M + T, H), (N, M + T, H), (N, H), (N, H)]
    ours = [torch.randn(s, dtype=torch.double, requires_grad=True) for s in shapes]
    theirs = [x.detach().clone().requires_grad_() for x in ours]
    masked = masked_positions(T, M, 4, same_length, torch.device("cpu"))
    a, b = relative_attention(*ours, masked, 0.0), biased_attention(*theirs, masked, 0.0)
    torch.testing.assert_close(a, b)
    weight = torch.randn_like(a)
    (a * weight).sum().backward()
    (b * weight).sum().backward()
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x.grad, y.grad)


def test_log_probs_are_normalized_and_match_the_loss():
    network = build(CONFIGS["narrower clusters"]).eval()
    ids = torch.randint(0, 17, (2, 6))
    targets = torch.randint(0, 17, (2, 6))
    nll, _ = network(ids, targets, mem_len=0)
    log_probs, _ = network.log_probs(ids, None, mem_len=0)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(2, 6))
    torch.testing.assert_close(-log_probs.gather(2, targets[..., None]).squeeze(2), nll.float(), rtol=1e-5, atol=1e-6)
