"""transformers' mT5 with our weights."""

import torch
import transformers

from lmrecipes.models.mt5 import MT5
from lmrecipes.models.mt5.hf import published_names


def transformers_model(network: MT5) -> transformers.MT5ForConditionalGeneration:
    """transformers' model with the network's weights and an untied output embedding."""
    config = network.config
    model = transformers.MT5ForConditionalGeneration(
        transformers.MT5Config(
            vocab_size=config.n_embeddings,
            d_model=config.d_model,
            d_kv=config.d_head,
            d_ff=config.d_ff,
            num_layers=config.n_layers,
            num_heads=config.n_heads,
            relative_attention_num_buckets=config.n_buckets,
            relative_attention_max_distance=config.max_distance,
            dropout_rate=0.0,
        )
    )
    model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    theirs = dict(model.named_parameters())
    with torch.no_grad():
        for ours, name in published_names(config):
            value = network.get_parameter(ours)
            theirs[name].copy_(value.T if ours.endswith("distances") else value)
    return model.eval()
