"""Properties of the Transformer-XL network that hold whatever its weights."""

import pytest
import torch

from lmrecipes.models.common import linear
from lmrecipes.models.transformer_xl import TransformerXL, TransformerXLConfig

SIZES = {"vocab_size": 50, "n_layers": 2, "d_model": 16, "n_heads": 2, "d_head": 8, "d_ff": 32, "cutoffs": [10, 25]}


def network(**changes):
    torch.manual_seed(0)
    return TransformerXL(TransformerXLConfig(**{**SIZES, **changes}))


BASE = {"n_layers": 16, "d_model": 512, "n_heads": 8, "d_head": 64, "d_ff": 2048}
LARGE = {"n_layers": 18, "d_model": 1024, "n_heads": 16, "d_head": 64, "d_ff": 4096, "div_val": 4}


@pytest.mark.parametrize(("config", "published"), [(BASE, 191_950_298), (LARGE, 285_167_482)], ids=["base", "large"])
def test_parameter_counts_are_as_published(config, published):
    text = {"vocab_size": 267735, "cutoffs": [19997, 39997, 199997], "tie_projections": [False, True, True, True]}
    config = TransformerXLConfig(**text, **config)
    with torch.device("meta"):
        built = TransformerXL(config)
    assert config.n_params() == published
    assert sum(p.numel() for p in built.parameters()) == published


@pytest.mark.parametrize("pre_norm", [False, True])
def test_segments_with_memory_equal_the_whole_text_at_once(pre_norm):
    model = network(pre_norm=pre_norm, n_layers=1).eval()
    text = torch.randint(0, 50, (2, 25))
    whole, _ = model(text[:, :-1], text[:, 1:], mem_len=0)
    parts, memory = [], None
    for start in range(0, 24, 6):
        nll, memory = model(text[:, start : start + 6], text[:, start + 1 : start + 7], memory, mem_len=24)
        parts.append(nll)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)


def test_segments_with_memory_equal_the_whole_text_at_once_in_deep_networks():
    model = network(n_layers=4).eval()
    text = torch.randint(0, 50, (2, 25))
    whole, _ = model(text[:, :-1], text[:, 1:], mem_len=0)
    nll, memory = model(text[:, :12], text[:, 1:13], None, mem_len=24)
    rest, _ = model(text[:, 12:24], text[:, 13:25], memory, mem_len=24)
    torch.testing.assert_close(torch.cat([nll, rest], dim=1), whole)


def test_outputs_do_not_depend_on_later_tokens():
    model = network().eval()
    text = torch.randint(0, 50, (1, 13))
    other = text.clone()
    other[:, 8:] = (other[:, 8:] + 7) % 50
    a, _ = model(text[:, :-1], text[:, 1:], mem_len=0)
    b, _ = model(other[:, :-1], text[:, 1:], mem_len=0)
    torch.testing.assert_close(a[:, :8], b[:, :8])
    assert not torch.allclose(a[:, 8:], b[:, 8:])


def test_memory_extends_the_context_without_gradients():
    model = network(dropout=0.0)
    text = torch.randint(0, 50, (1, 13))
    _, memory = model(text[:, :6], text[:, 1:7], mem_len=6)
    assert [tuple(layer.shape) for layer in memory] == [(1, 6, 16)] * 2
    assert not any(layer.requires_grad for layer in memory)
    with_memory, _ = model(text[:, 6:12], text[:, 7:13], memory, mem_len=6)
    without, _ = model(text[:, 6:12], text[:, 7:13], mem_len=6)
    assert not torch.allclose(with_memory, without)


def test_dropout_acts_only_in_training():
    model = network(dropout=0.5, attention_dropout=0.3)
    ids = torch.randint(0, 50, (1, 8))
    assert not torch.equal(model(ids, ids, mem_len=0)[0], model(ids, ids, mem_len=0)[0])
    model.eval()
    assert torch.equal(model(ids, ids, mem_len=0)[0], model(ids, ids, mem_len=0)[0])


def test_attention_dropout_preserves_expectation_and_gradient():
    torch.manual_seed(0)
    model = network(dropout=0.0, attention_dropout=0.4).double()
    ids = torch.randint(0, 50, (1, 6))

    def loss():
        torch.manual_seed(3)  # the same mask every time
        return model(ids, ids, mem_len=0)[0].sum()

    loss().backward()
    weight = model.layers[0].attention.query.weight
    analytic = weight.grad[0, 0].item()
    with torch.no_grad():
        weight[0, 0] += 1e-6
        up = loss().item()
        weight[0, 0] -= 2e-6
        down = loss().item()
    assert (up - down) / 2e-6 == pytest.approx(analytic, rel=1e-3, abs=1e-6)


def test_initialization_equals_the_published_one():
    model = network(d_model=256, d_ff=512, vocab_size=4000, cutoffs=[1000], div_val=2, init_std=0.03)
    for name, parameter in model.named_parameters():
        if "projections" in name:
            assert parameter.std().item() == pytest.approx(0.01, rel=0.1), name
        elif name.endswith("norm.weight"):
            assert parameter.mean().item() == pytest.approx(1, abs=0.02), name
            assert parameter.std().item() == pytest.approx(0.03, rel=0.25), name
        elif "bias" in name and name not in ("content_bias", "position_bias"):
            assert not parameter.any(), name
        elif parameter.numel() > 1000:
            assert parameter.std().item() == pytest.approx(0.03, rel=0.1), name


def test_transformer_xl_overfits_one_batch():
    model = network(dropout=0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    text = torch.randint(0, 50, (2, 13))
    for _ in range(150):
        optimizer.zero_grad()
        loss = model(text[:, :-1], text[:, 1:], mem_len=0)[0].mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_stays_close_and_trains(dtype):
    model = network(dropout=0.0)
    ids = torch.randint(0, 50, (2, 8))
    exact, _ = model(ids, ids, mem_len=8)
    with torch.autocast("cpu", dtype=dtype):
        mixed, memory = model(ids, ids, mem_len=8)
        again, _ = model(ids, ids, memory, mem_len=8)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, exact, rtol=0.03, atol=0.03)
    (mixed.mean() + again.mean()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cutoffs": [10, 60]}, r"model.config.cutoffs is \[10, 60\], beyond the vocabulary of 50"),
        ({"cutoffs": [25, 10]}, "must be positive and increasing"),
        ({"d_model": 15}, "model.config.d_model is 15; it must be even"),
        ({"dropout": 1.0}, "model.config.dropout is 1.0"),
        ({"n_heads": 0}, "model.config.n_heads is 0"),
        ({"tie_projections": [True]}, "2 cutoffs make 3 clusters"),
        ({"div_val": 9}, "model.config.div_val is 9"),
    ],
)
def test_invalid_sizes_are_rejected_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        TransformerXLConfig(**{**SIZES, **changes})


def test_flops_are_those_of_the_matrix_products(monkeypatch):
    from torch.utils.flop_counter import FlopCounterMode

    monkeypatch.setattr(linear, "onednn_is_faster", lambda: False)  # an operator that torch does not count

    config = TransformerXLConfig(**{**SIZES, "cutoffs": []})
    model = TransformerXL(config).eval()
    B, T, M = 16, 8, 8
    memory = [torch.randn(B, M, 16) for _ in range(2)]
    ids = torch.randint(0, 50, (B, T))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(ids, ids, memory, mem_len=M)
    # The keys of positions are computed once per batch and are not counted per token.
    positions = 2 * 2 * (M + T) * 16 * 16
    assert (counter.get_total_flops() - positions) * 3 == pytest.approx(config.flops_per_token(T, M) * B * T)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_network_has_the_same_outputs_and_parameter_names():
    model = network(dropout=0.0)
    ids = torch.randint(0, 50, (2, 8))
    expected, _ = model(ids, ids, mem_len=8)
    names = list(model.state_dict())
    model.compile()
    got, _ = model(ids, ids, mem_len=8)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    got.mean().backward()
    assert list(model.state_dict()) == names
