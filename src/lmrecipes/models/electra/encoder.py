"""transformers' ELECTRA encoder, run over packed tokens and with this package's faster layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lmrecipes.models.common.attention import attend
from lmrecipes.models.common.dropout import Dropout
from lmrecipes.models.common.linear import Linear, filled
from lmrecipes.models.common.unpadded import Packing

# B sequences, T positions, N real tokens of all sequences, n heads, h width of a head, D width of the encoder.
_ATTENTION = "lmrecipes_packed"


def build_encoder(config: Any, init_std: float) -> Any:
    """An encoder with new weights, transformers' ElectraModel. Names of parameters are theirs.

    Args:
        config: transformers' ElectraConfig.
        init_std: of the weights.
    """
    # transformers takes seconds to import: only when a network is built.
    from transformers import AttentionInterface, ElectraModel

    AttentionInterface.register(_ATTENTION, _attend)
    config._attn_implementation = _ATTENTION
    model = ElectraModel(config)
    initialize(model, init_std)
    return faster(model)


@torch.no_grad()
def initialize(module: nn.Module, std: float) -> None:
    """Initializes as published: normal, truncated at two standard deviations; zero biases."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.trunc_normal_(part.weight, std=std, a=-2 * std, b=2 * std)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)


def faster(module: nn.Module) -> Any:
    """The same module with this package's linear layers and dropout; parameters and their names stay."""
    for part in list(module.modules()):
        for name, child in list(part.named_children()):
            if type(child) is nn.Linear:
                linear = Linear(child.in_features, child.out_features, child.bias is not None, device="meta")
                linear.weight, linear.bias = child.weight, child.bias
                setattr(part, name, linear)
            elif type(child) is nn.Dropout:
                setattr(part, name, Dropout(child.p))
    return module


def embed(model: Any, ids_N: Tensor, types_N: Tensor, packing: Packing) -> Tensor:
    """Embeddings of packed tokens (N, E)."""
    positions = packing.positions(ids_N.device)
    out: Tensor = model.embeddings(ids_N[None], types_N[None], positions[None])
    return out[0]


def encode(model: Any, x_NE: Tensor, packing: Packing) -> Tensor:
    """Embeddings (N, E) through the encoder's layers: (N, D), with more rows where that is a rounder number."""
    x = filled(x_NE)[None]
    if hasattr(model, "embeddings_project"):
        x = model.embeddings_project(x)
    for layer in model.encoder.layer:
        x = layer(x, packing=packing)
    out: Tensor = x[0]
    return out


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    dropout: float,
    scaling: float,
    packing: Packing,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention within each sequence: (1, n, N, h) three times to (1, N, n, h), in transformers' layout."""
    q, k, v = (packing.pad(x[0].transpose(0, 1)).transpose(1, 2) for x in (query, key, value))
    mask = None if packing.real is None else packing.real[:, None, None, :]
    out = attend(q, k, v, mask, scale=scaling, p=dropout)
    return filled(packing.pack(out.transpose(1, 2)))[None], None
