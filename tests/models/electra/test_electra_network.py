"""ELECTRA's networks beyond parity: masks, sampling, sizes, and cost proportional to real tokens."""

import math

import pytest
import torch
from small_electra import masked_batch, small_config

from lmrecipes.batches import BatchPlan
from lmrecipes.models.common.unpadded import Packing
from lmrecipes.models.electra import Electra, ElectraConfig, ElectraModule
from lmrecipes.models.electra.network import sample
from lmrecipes.optim import Constant


def test_sequences_do_not_attend_to_each_other_or_padding():
    torch.manual_seed(0)
    network, batch = Electra(small_config()).eval(), masked_batch()
    packing = Packing.of(batch.lengths, torch.device("cpu"))
    whole = network.discriminator_logits(packing.pack(batch.input_ids), packing.pack(batch.token_type_ids), packing)
    for i, (start, length) in enumerate(zip(packing.starts.tolist(), batch.lengths.tolist(), strict=True)):
        alone = Packing.of(batch.lengths[i : i + 1], torch.device("cpu"))
        ids, types = batch.input_ids[i, :length], batch.token_type_ids[i, :length]
        torch.testing.assert_close(network.discriminator_logits(ids, types, alone), whole[start : start + length])


def test_only_real_tokens_are_computed_and_fillers_up_to_a_multiple_of_32():
    network, batch = Electra(small_config()), masked_batch()
    rows = []
    network.discriminator.encoder.layer[0].intermediate.dense.register_forward_hook(
        lambda module, inputs, output: rows.append(output.shape[:-1].numel())
    )
    network.generator_head.dense.register_forward_hook(
        lambda module, inputs, output: rows.append(output.shape[:-1].numel())
    )
    network(**batch._asdict())
    assert rows == [math.ceil(int(n) / 32) * 32 for n in (batch.weights.sum(), batch.lengths.sum())]
    assert rows[1] < batch.input_ids.numel()


def test_tokens_are_sampled_from_the_generators_distribution():
    torch.manual_seed(0)
    logits = torch.tensor([2.0, 0.0, 1.0, -1.0])
    for temperature in (1.0, 0.5):
        counts = sample(logits.expand(40_000, -1), temperature).bincount(minlength=4)
        torch.testing.assert_close(counts / 40_000, (logits / temperature).softmax(-1), atol=0.01, rtol=0)


def test_a_sampled_token_equal_to_the_original_counts_as_original():
    torch.manual_seed(0)
    network, batch = Electra(small_config()), masked_batch()
    with torch.no_grad():
        network.generator_bias.fill_(-1e4)
        network.generator_bias[7] = 1e4  # sampled at every masked position
    out = network(**batch._asdict())
    assert (out.sampled == 7).all()
    assert int(out.replaced.sum()) == int((out.originals != 7).sum())
    same = network(**batch._replace(originals=torch.full_like(batch.originals, 7))._asdict())
    assert not same.replaced.any()


def test_every_validation_starts_with_fresh_metrics(monkeypatch):
    logged = []
    monkeypatch.setattr(ElectraModule, "log_dict", lambda _, metrics, **__: logged.append(metrics))
    module = ElectraModule(small_config(), torch.optim.Adam, Constant(), BatchPlan(global_batch_size=3, seq_len=12))
    module.network = Electra(small_config())
    for seed in (0, 1, 0):
        torch.manual_seed(0)
        module.validation_step(masked_batch(seed=seed), 0)
        module.on_validation_epoch_end()
    first, other, again = ({name: float(value) for name, value in metrics.items()} for metrics in logged)
    assert first == pytest.approx(again, nan_ok=True)
    for name in ("val/loss", "val/generator_loss", "val/discriminator_loss"):
        assert first[name] != other[name]


def test_every_parameter_is_used():
    network = Electra(small_config())
    network(**masked_batch()._asdict()).loss.backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


def test_electra_overfits_one_batch():
    torch.manual_seed(0)
    network, batch = Electra(small_config(init_std=0.1)), masked_batch()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        out = network(**batch._asdict())
        out.loss.backward()
        optimizer.step()
        losses.append(out.generator_loss.item())
    assert losses[0] > 3
    assert losses[-1] < 1


@pytest.mark.parametrize(
    ("size", "d_model", "rounding", "width", "heads"),
    [
        (1 / 3, 768, "nearest", 256, 4),
        (0.3333333, 768, "up", 256, 4),
        (0.25, 1024, "nearest", 256, 4),
        (0.25, 256, "up", 64, 1),
        (0.3333333, 1024, "up", 384, 6),
    ],
)
def test_the_generator_is_as_wide_as_published(size, d_model, rounding, width, heads):
    config = ElectraConfig(d_model=d_model, n_heads=d_model // 64, generator_size=size, generator_rounding=rounding)
    assert (config.generator_d_model, config.generator_heads, config.generator_d_ff) == (width, heads, 4 * width)


def test_incompatible_sizes_are_rejected_in_one_line():
    with pytest.raises(ValueError, match=r"n_heads is 5 and does not divide d_model 256; 4 would"):
        ElectraConfig(n_heads=5)
    with pytest.raises(ValueError, match=r"makes the generator 341 wide.*generator_rounding up would"):
        ElectraConfig(d_model=1024, n_heads=16, generator_size=1 / 3)


def test_the_embedding_is_padded_to_a_multiple():
    network = Electra(small_config(vocab_multiple=8))
    assert len(network.generator_bias) == 64
    assert network.discriminator.embeddings.word_embeddings.num_embeddings == 64


def test_initialization_is_as_published():
    torch.manual_seed(0)
    network = Electra(ElectraConfig(vocab_size=500, n_layers=1))
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "LayerNorm" in name:
            assert (parameter == 1).all(), name
        else:
            assert parameter.abs().max() <= 0.04, name
            assert 0.016 < parameter.std() < 0.019, name
