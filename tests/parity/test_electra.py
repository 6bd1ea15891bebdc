"""ELECTRA's losses and gradients equal those of transformers' models combined naively."""

import pytest
import torch
import transformers
from naive_electra import naive_losses, naive_models
from small_electra import masked_batch, small_config

from lmrecipes.models.electra import Electra, ElectraConfig
from lmrecipes.models.electra import network as electra_network


def ours(network, batch, tokens):
    """Losses with the given tokens in place of sampled ones."""
    electra_network.sample, drawn = lambda logits, temperature: tokens(logits), electra_network.sample
    try:
        return network(**batch._asdict())
    finally:
        electra_network.sample = drawn


@pytest.mark.parametrize("lengths", [(12, 7, 9), (8, 8, 8)])
@pytest.mark.parametrize("sizes", [{}, {"d_embedding": 32, "generator_size": 1.0, "generator_layers": 0.5}])
def test_electra_losses_and_gradients_equal_those_of_transformers(lengths, sizes):
    torch.manual_seed(0)
    network = Electra(small_config(**sizes))
    batch = masked_batch(lengths)
    models = naive_models(network)
    # The second-best token is rarely the original one.
    draw = lambda logits: logits.topk(2).indices[:, 1]  # noqa: E731
    out = ours(network, batch, draw)
    out.loss.backward()
    generator_loss, discriminator_loss, _ = naive_losses(*models, batch, draw)
    (generator_loss + 50 * discriminator_loss).backward()
    torch.testing.assert_close(out.generator_loss, generator_loss)
    torch.testing.assert_close(out.discriminator_loss, discriminator_loss)
    generator, discriminator = models
    theirs = {
        **{f"discriminator.{n}": p for n, p in discriminator.electra.named_parameters()},
        **{f"discriminator_head.{n}": p for n, p in discriminator.discriminator_predictions.named_parameters()},
        **{f"generator.{n}": p for n, p in generator.electra.named_parameters() if not n.startswith("embeddings.")},
        **{f"generator_head.{n}": p for n, p in generator.generator_predictions.named_parameters()},
        "generator_bias": generator.generator_lm_head.bias,
    }
    own = dict(network.named_parameters())
    assert own.keys() == theirs.keys()
    for name, parameter in own.items():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, atol=2e-5, rtol=1e-4, msg=name)


def test_sampled_tokens_carry_no_gradient_to_the_generator():
    torch.manual_seed(0)
    network = Electra(small_config(generator_weight=0.0))
    network(**masked_batch()._asdict()).loss.backward()
    for name, parameter in network.named_parameters():
        if name.startswith("generator"):
            assert parameter.grad is None or not parameter.grad.any(), name
        elif name.startswith("discriminator.encoder"):
            assert parameter.grad.any() or "key.bias" in name, name


BASE = {"d_embedding": 768, "d_model": 768, "n_heads": 12, "d_ff": 3072, "generator_size": 1 / 3}
LARGE = {"d_embedding": 1024, "d_model": 1024, "n_heads": 16, "d_ff": 4096, "n_layers": 24}


# Parameters of transformers' models of these sizes: the published 14 M, 110 M and 335 M.
@pytest.mark.parametrize(
    ("sizes", "discriminator", "generator"),
    [({}, 13_549_057, 4_620_026), (BASE, 109_483_009, 33_740_602), (LARGE, 335_142_913, 51_295_290)],
)
def test_published_sizes_have_the_published_parameter_counts(sizes, discriminator, generator):
    config = ElectraConfig(vocab_size=30522, **sizes)
    with torch.device("meta"):
        models = (
            transformers.ElectraForPreTraining(config.transformers()),
            transformers.ElectraForMaskedLM(config.generator_transformers()),
        )
        network = Electra(config)
    assert tuple(sum(p.numel() for p in model.parameters()) for model in models) == (discriminator, generator)
    assert sum(p.numel() for p in network.parameters()) == config.n_params()
    # The generator's own embeddings do not exist in ours.
    shared = config.n_embedding_params()
    assert config.n_params() == discriminator + generator - shared
