"""mT5's network: isolation of packed pairs, sizes, memory, and the effect of every setting."""

from dataclasses import fields, replace

import pytest
import torch
from small_mt5 import FAMILIES, GOOGLE, SMALL, network_inputs, pair_batch, single_pair, small_network

from lmrecipes.models.mt5 import MT5, MT5Config
from lmrecipes.models.mt5.parallel import parallel_plan

PACKED = pair_batch([[(20, 8), (5, 9), (11, 2)], [(33, 13)], [(9, 4), (9, 9)]])


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_pairs_have_the_losses_and_gradients_of_single_pairs(family):
    network = small_network(**FAMILIES[family])
    out = network(**network_inputs(PACKED))
    out.loss.backward()
    packed = {name: p.grad.clone() for name, p in network.named_parameters()}
    network.zero_grad()
    n_targets = int((PACKED.target_pairs > 0).sum())
    total = torch.zeros(())
    for row in range(len(PACKED.input_ids)):
        for pair in range(1, int(PACKED.input_pairs[row].max()) + 1):
            single = network(**network_inputs(single_pair(PACKED, row, pair)))
            there = PACKED.target_pairs[row] == pair
            torch.testing.assert_close(out.losses[row, there], single.losses[0], atol=1e-5, rtol=1e-4)
            total = total + single.loss * int(there.sum()) / n_targets
    torch.testing.assert_close(out.loss, total)
    assert not out.losses[PACKED.target_pairs == 0].any()
    total.backward()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(packed[name], parameter.grad, atol=1e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_target_does_not_depend_on_later_ones(family):
    network = small_network(**FAMILIES[family])
    batch = pair_batch([[(12, 10)]])
    before = network(**network_inputs(batch)).losses[0]
    batch.decoder_input_ids[0, 6] = 7
    after = network(**network_inputs(batch)).losses[0]
    assert torch.equal(before[:6], after[:6])
    assert not torch.isclose(before[6:], after[6:]).any()


# The input fills its row, so padding of the target has no input to attend to.
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_does_not_corrupt_gradients_under_dropout(family):
    network = small_network(dropout=0.2, **FAMILIES[family])
    network(**network_inputs(pair_batch([[(20, 4)], [(8, 12)]]))).loss.backward()
    assert [name for name, p in network.named_parameters() if not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_activation_checkpointing_changes_no_output(family):
    batch = network_inputs(PACKED)
    gradients = []
    for activation_checkpointing in (False, True):
        network = small_network(dropout=0.2, **FAMILIES[family])
        network.activation_checkpointing = activation_checkpointing
        torch.manual_seed(3)
        network(**batch).loss.backward()
        gradients.append({name: p.grad for name, p in network.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_activation_checkpointing_saves_memory():
    kept = []
    for activation_checkpointing in (False, True):
        network = small_network(n_layers=4)
        network.activation_checkpointing = activation_checkpointing
        held = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t.numel()) or t, lambda t: t):  # noqa: B023
            network(**network_inputs(PACKED))
        kept.append(sum(held))
    assert kept[1] < kept[0] / 2


# NeMo's table counts embeddings and matrices: 172.6 M, 391.1 M, 3.232 B, 11.90 B, 24.64 B.
NEMO = {
    "170m": ({}, 172_621_824),
    "390m": ({"d_model": 768, "n_layers": 12, "n_heads": 12, "d_ff": 2048}, 391_053_312),
    "3b": ({"d_model": 2048, "n_layers": 24, "n_heads": 32, "d_ff": 5120}, 3_232_235_520),
    "11b": ({"d_model": 4096, "n_layers": 24, "n_heads": 64, "d_ff": 10240}, 11_900_289_024),
    "23b": ({"d_model": 5120, "n_layers": 36, "n_heads": 80, "d_ff": 10880}, 24_642_846_720),
}
# transformers' models of the published configurations, with an untied output embedding.
GOOGLES = {
    "small": ({"d_model": 512, "n_layers": 8, "n_heads": 6, "d_ff": 1024}, 300_176_768),
    "base": ({"d_model": 768, "n_layers": 12, "n_heads": 12, "d_ff": 2048}, 582_401_280),
    "large": ({"d_model": 1024, "n_layers": 24, "n_heads": 16, "d_ff": 2816}, 1_229_581_312),
    "xl": ({"d_model": 2048, "n_layers": 24, "n_heads": 32, "d_ff": 5120}, 3_742_619_648),
    "xxl": ({"d_model": 4096, "n_layers": 24, "n_heads": 64, "d_ff": 10240}, 12_921_057_280),
}


def counts(config: MT5Config) -> tuple[int, int]:
    """Number of all parameters, and of those in matrices."""
    with torch.device("meta"):
        network = MT5(config)
    sizes = [(p.numel(), p.ndim) for p in network.parameters()]
    assert sum(n for n, _ in sizes) == config.n_params()
    return config.n_params(), sum(n for n, ndim in sizes if ndim == 2)


@pytest.mark.parametrize("size", NEMO)
def test_nemo_sizes_have_the_published_parameter_counts(size):
    settings, published = NEMO[size]
    config = MT5Config(vocab_size=250_100, **settings)
    everything, matrices = counts(config)
    assert matrices == published == config.n_matrices()
    # Biases and norms are few.
    assert 0 < everything - matrices < 0.003 * matrices


@pytest.mark.parametrize("size", GOOGLES)
def test_google_sizes_have_the_published_parameter_counts(size):
    settings, published = GOOGLES[size]
    config = MT5Config(vocab_size=250_100, family="google", positions="relative", **settings)
    assert counts(config)[0] == published


CHANGES = {
    "family": "google",
    "positions": "relative",
    "vocab_size": 120,
    "vocab_multiple": 1,
    "d_model": 16,
    "n_layers": 3,
    "n_heads": 4,
    "d_head": 4,
    "d_ff": 32,
    "max_positions": 40,
    "n_buckets": 4,
    "max_distance": 40,
    "dropout": 0.5,
    "attention_dropout": 0.5,
    "init_std": 0.5,
}


@pytest.mark.parametrize("name", [field.name for field in fields(MT5Config)])
def test_every_setting_changes_the_output(name):
    base = {"positions": "relative"} if name in ("n_buckets", "max_distance") else {}
    config = MT5Config(**{**SMALL, "dropout": 0.0, "attention_dropout": 0.0, **base})
    batch = pair_batch([[(33, 13)]])
    if name == "vocab_size":
        batch = batch._replace(**{k: getattr(batch, k) % 100 for k in ("input_ids", "decoder_input_ids", "targets")})
    seen = []
    for changed in (config, replace(config, **{name: CHANGES[name]})):
        torch.manual_seed(0)
        network = MT5(changed)
        with torch.no_grad():
            for parameter in (network.encoder.distances, network.decoder.distances) if base else ():
                parameter.mul_(100)
        seen.append((network(**network_inputs(batch)).loss.item(), tuple(p.shape for p in network.parameters())))
    assert seen[0] != seen[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"d_head": 0}, "d_head is 0; it must be 1 or more"),
        ({"n_buckets": 6}, "n_buckets is 6; it must be a multiple of 4"),
        ({"max_distance": 16}, "max_distance is 16; it must be above half of n_buckets, 16"),
        ({"dropout": 1.0}, "dropout is 1.0; it must be at least 0 and below 1"),
        ({"vocab_size": -1}, "vocab_size is -1"),
    ],
)
def test_invalid_sizes_are_rejected(settings, message):
    with pytest.raises(ValueError, match=message):
        MT5Config(**settings)


def test_rows_longer_than_the_position_embedding_are_rejected():
    with pytest.raises(ValueError, match=r"sequences of 65 tokens are longer than model\.config\.max_positions, 64"):
        small_network()(**network_inputs(pair_batch([[(65, 3)]])))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_matrix_of_the_layers_is_in_the_tensor_parallel_plan(family):
    network = small_network(**FAMILIES[family])
    plan = parallel_plan(network.config)
    whole = {"embedding", "head", "encoder.positions", "decoder.positions"}
    names = {name.removesuffix(".weight") for name, p in network.named_parameters() if p.ndim == 2} - whole
    planned = {key.replace("*", str(i)) for key in plan.split for i in range(2)}
    assert names | {key for key in planned if "position_bias" in key} == planned


def test_a_deep_network_starts_near_the_loss_of_uniform_guessing():
    for settings in ({}, GOOGLE):
        torch.manual_seed(0)
        network = MT5(MT5Config(**{**SMALL, "n_layers": 6, "d_model": 64, **settings}))
        loss = network(**network_inputs(pair_batch([[(40, 30)]] * 4))).loss.item()
        assert abs(loss - 5.5) < 1.2, settings
