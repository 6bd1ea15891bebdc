"""transformers' ELECTRA encoder, run over packed tokens and with this package's faster layers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, ElectraConfig, ElectraModel

from lmrecipes.models.common.dropout import Dropout, dropout
from lmrecipes.models.common.linear import Linear
from lmrecipes.models.common.packing import Packing

# B sequences, T positions, N real tokens of all sequences, n heads, h width of a head, D width of the encoder.
_ATTENTION = "lmrecipes_packed"


def build_encoder(config: ElectraConfig, init_std: float) -> ElectraModel:
    """An encoder with new weights. Names of parameters are transformers'."""
    config._attn_implementation = _ATTENTION
    model = ElectraModel(config)
    initialize(model, init_std)
    return faster(model)


@torch.no_grad()
def initialize(module: nn.Module, std: float) -> None:
    """Fills weights as published: a normal distribution cut off at two deviations, no biases."""
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


def embed(model: ElectraModel, ids_N: Tensor, types_N: Tensor, packing: Packing) -> Tensor:
    """Embeddings of packed tokens (N, E)."""
    positions = packing.positions(ids_N.device)
    out: Tensor = model.embeddings(ids_N[None], types_N[None], positions[None])
    return out[0]


def encode(model: ElectraModel, x_NE: Tensor, packing: Packing) -> Tensor:
    """Embeddings (N, E) through the encoder's layers: (N, D)."""
    x = x_NE[None]
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
    """Attention within each sequence: (1, n, N, h) three times to (1, N, n, h), as transformers hands it over."""
    q, k, v = (packing.pad(x[0].transpose(0, 1)).transpose(1, 2) for x in (query, key, value))
    mask = None if packing.real is None else packing.real[:, None, None, :]
    if _faster_in_steps(q, dropout):
        out = _attend_in_steps(q, k, v, mask, scaling, dropout)
    else:
        out = F.scaled_dot_product_attention(q, k, v, mask, dropout, scale=scaling)
    return packing.pack(out.transpose(1, 2))[None], None


def _faster_in_steps(q: Tensor, p: float) -> bool:
    """Whether two products with a softmax between them beat torch's own attention: on CPUs where its kernel is slow."""
    if not q.is_cpu or torch.compiler.is_compiling():
        return False
    # With dropout there is no fused kernel, and random numbers are drawn one by one. In bfloat16 the fused kernel
    # leaves the processor's products of that type unused, unless it has AMX; in steps, scores are rounded to bfloat16
    # as eager attention does.
    return p > 0 or (q.dtype == torch.bfloat16 and not torch.cpu._is_amx_tile_supported())


def _attend_in_steps(
    q_BnTh: Tensor, k_BnTh: Tensor, v_BnTh: Tensor, mask: Tensor | None, scaling: float, p: float
) -> Tensor:
    B, n, T, _ = q_BnTh.shape
    q, k, v = (x.flatten(0, 1) for x in (q_BnTh, k_BnTh, v_BnTh))
    bias = q.new_zeros(1, 1, 1)
    if mask is not None:
        bias = q.new_zeros(mask.shape).masked_fill(~mask, -torch.inf).expand(B, n, 1, T).flatten(0, 1)
    # Autocast would make a float32 copy of the weights; softmax computes in float32 as it is.
    with torch.autocast("cpu", enabled=False):
        weights = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=scaling).softmax(-1)
        return torch.bmm(dropout(weights, p) if p else weights, v).unflatten(0, (B, n))


AttentionInterface.register(_ATTENTION, _attend)
