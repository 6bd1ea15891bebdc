"""mT5 (Xue et al. 2021, arXiv:2010.11934): an encoder and a decoder, as Google and as NeMo have them.

B rows, T tokens of the input, U of the target, D d_model, V rows of the embedding. A row holds one pair of input
and target or several, one after the other; no token attends to another pair.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lmrecipes.models.common.dropout import Dropout
from lmrecipes.models.common.linear import Linear, linear
from lmrecipes.models.common.linear_cross_entropy import IGNORED, vocabulary_loss
from lmrecipes.models.mt5.config import MT5Config
from lmrecipes.models.mt5.layers import DecoderLayer, EncoderLayer, LayerCache, joined, norm, same_pair
from lmrecipes.models.mt5.relative_positions import PositionBias, positions_in_pair, with_prompt


class PairLoss(NamedTuple):
    """Losses of a batch."""

    loss: Tensor
    """Mean over the targets, in nats."""
    losses: Tensor
    """Of each target, without gradient: float32 (B, U); 0 in padding."""


@dataclass
class Cache:
    """Key-value cache of the decoder: one row for each text."""

    input_pairs: Tensor
    """Pairs of the input tokens, 0 in padding: int64 (B, T)."""
    layers: list[LayerCache] = field(default_factory=list)
    """One for every layer."""

    def reorder(self, rows: Tensor) -> None:
        """Reorders the cache to these rows, each from a row with the same input."""
        for layer in self.layers:
            layer.reorder(rows)

    def select(self, rows: Tensor) -> None:
        """Selects rows of the cache, possibly repeated."""
        self.input_pairs = self.input_pairs.index_select(0, rows)
        for layer in self.layers:
            layer.select(rows)


class Stack(nn.Module):
    """The encoder or the decoder."""

    def __init__(self, config: MT5Config, *, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        if config.positions == "learned":
            self.positions = nn.Embedding(config.max_positions, config.d_model)
        else:
            self.distances = nn.Parameter(torch.empty(config.n_heads, config.n_buckets))
            self.position_bias = PositionBias(config, causal=causal)
        kind: Any = DecoderLayer if causal else EncoderLayer
        self.layers = nn.ModuleList(kind(config) for _ in range(config.n_layers))
        self.norm = norm(config)
        self.dropout = Dropout(config.dropout)
        # Only Google's model applies dropout to the output.
        self.last_dropout = Dropout(config.dropout if config.is_google else 0.0)

    def add_positions(self, x: Tensor, positions: Tensor) -> Tensor:
        """Adds learned position embeddings, where the family has them."""
        return x + self.positions(positions) if hasattr(self, "positions") else x

    def bias(self, n_queries: int, n_keys: int) -> Tensor | None:
        """Biases by distance, where there are any."""
        if hasattr(self, "positions"):
            return None
        out: Tensor = self.position_bias(self.distances, n_queries, n_keys)
        return out

    def finish(self, x: Tensor) -> Tensor:
        """Normalizes the output of the last layer."""
        out: Tensor = self.last_dropout(self.norm(x))
        return out


class MT5(nn.Module):
    """Text to text."""

    activation_checkpointing = False
    """Whether the backward pass recomputes layers instead of keeping their activations."""
    prompt: nn.Module | None
    """Gives the vectors that precede every input (virtual tokens, D)."""

    def __init__(self, config: MT5Config) -> None:
        super().__init__()
        if config.vocab_size < 1:
            raise ValueError(f"model.config.vocab_size is {config.vocab_size}; the network needs the number of tokens")
        self.config = config
        self.embedding = nn.Embedding(config.n_embeddings, config.d_model)
        self.encoder = Stack(config, causal=False)
        self.decoder = Stack(config, causal=True)
        self.register_module("prompt", None)
        if config.is_google:
            self.head = Linear(config.d_model, config.n_embeddings, bias=False)
        else:
            self.head_bias = nn.Parameter(torch.empty(config.n_embeddings))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initializes as published; the vocabulary's last, so that a seed gives the same layers for any vocabulary."""
        named = sorted(self.named_parameters(), key=lambda item: item[0].startswith(("embedding.", "head")))
        for name, parameter in named:
            if parameter.ndim == 1:
                nn.init.constant_(parameter, float("norm" in name and name.endswith("weight")))
            else:
                nn.init.normal_(parameter, 0.0, self._first_std(name, parameter))

    def _first_std(self, name: str, parameter: Tensor) -> float:
        config = self.config
        if not config.is_google:
            # Residual projections are scaled down by depth, as in Megatron.
            added = name.endswith((".out.weight", ".down.weight"))
            return config.init_std / math.sqrt(2 * config.n_layers) if added else config.init_std
        if name == "embedding.weight" or "positions" in name:
            return 1.0
        if name.endswith("distances"):
            return config.d_model**-0.5
        if name.endswith(".query.weight"):
            return float((config.d_model * config.d_head) ** -0.5)
        return float(parameter.shape[1] ** -0.5)

    def forward(
        self, input_ids: Tensor, input_pairs: Tensor, decoder_input_ids: Tensor, targets: Tensor, target_pairs: Tensor
    ) -> PairLoss:
        """Loss of target texts given input texts; arguments as in TextPairBatch."""
        tokens = torch.cat([input_ids.flatten(), decoder_input_ids.flatten()])
        # A single embedding lookup: its table-sized gradient is then computed once.
        embedded = self.embedding(tokens).split([input_ids.numel(), decoder_input_ids.numel()])
        x_BTD, y_BUD = (e.view(*ids.shape, -1) for e, ids in zip(embedded, (input_ids, decoder_input_ids), strict=True))
        x_BTD, input_pairs = self._prompted(x_BTD, input_pairs)
        encoded_BTD = self._encode(x_BTD, input_pairs)
        hidden_BUD = self._decode(y_BUD, target_pairs, encoded_BTD, input_pairs)
        counted = targets.masked_fill(target_pairs == 0, IGNORED).flatten()
        loss, losses = vocabulary_loss(hidden_BUD.flatten(0, 1), *self._table(counted))
        return PairLoss(loss, losses.view_as(targets))

    def _table(self, targets: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        if self.config.is_google:
            return self.head.weight, targets, None
        return self.embedding.weight, targets, self.head_bias

    def _prompted(self, x_BTD: Tensor, pairs_BT: Tensor) -> tuple[Tensor, Tensor]:
        return (x_BTD, pairs_BT) if self.prompt is None else with_prompt(x_BTD, pairs_BT, self.prompt())

    def _run(self, layer: nn.Module, *inputs: Any) -> Tensor:
        if self.activation_checkpointing and self.training:
            out: Tensor = checkpoint(layer, *inputs, use_reentrant=False)
        else:
            out = layer(*inputs)
        return out

    def _encode(self, x_BTD: Tensor, pairs_BT: Tensor) -> Tensor:
        self._check(pairs_BT.shape[1])
        x = self.encoder.dropout(self.encoder.add_positions(x_BTD, positions_in_pair(pairs_BT)))
        mask = None if _all_real(pairs_BT) else same_pair(pairs_BT, pairs_BT)
        mask = joined(mask, self.encoder.bias(x.shape[1], x.shape[1]))
        for layer in self.encoder.layers:
            x = self._run(layer, x, mask)
        return self.encoder.finish(x)

    def _decode(self, y_BUD: Tensor, pairs_BU: Tensor, encoded_BTD: Tensor, input_pairs_BT: Tensor) -> Tensor:
        length = y_BUD.shape[1]
        self._check(length)
        y = self.decoder.dropout(self.decoder.add_positions(y_BUD, positions_in_pair(pairs_BU)))
        before = torch.ones(length, length, dtype=torch.bool, device=y.device).tril()
        mask = joined(same_pair(pairs_BU, pairs_BU) & before, self.decoder.bias(length, length))
        input_mask = None if _all_real(input_pairs_BT) else same_pair(pairs_BU, input_pairs_BT)
        for layer in self.decoder.layers:
            y = self._run(layer, y, encoded_BTD, mask, input_mask)
        return self.decoder.finish(y)

    def _check(self, length: int) -> None:
        if self.config.positions == "learned" and length > self.config.max_positions:
            raise ValueError(
                f"sequences of {length} tokens are longer than model.config.max_positions, "
                f"{self.config.max_positions}; reduce batch.seq_len, or generate shorter texts"
            )

    def logits(self, hidden: Tensor) -> Tensor:
        """Of every token of the vocabulary: (..., D) to (..., V)."""
        if self.config.is_google:
            out: Tensor = self.head(hidden)
            return out
        return linear(hidden, self.embedding.weight, self.head_bias)

    # Generation.

    def encode(self, input_ids: Tensor, input_pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Encodes input texts: (B, T, D), and the pairs of these positions, 0 in padding (B, T)."""
        x_BTD, input_pairs = self._prompted(self.embedding(input_ids), input_pairs)
        return self._encode(x_BTD, input_pairs), input_pairs

    def begin(self, input_pairs: Tensor, capacity: int) -> Cache:
        """A cache for texts of up to `capacity` tokens, one row for each row of pairs that `encode` returns."""
        self._check(capacity)
        return Cache(input_pairs, [LayerCache(capacity) for _ in range(self.config.n_layers)])

    def step(self, tokens: Tensor, cache: Cache, encoded: Tensor | None = None) -> Tensor:
        """Logits of the tokens that follow, float32 (B, vocab_size).

        Args:
            tokens: the next tokens of every text (B, number); those of earlier steps are in the cache.
            cache: from `begin`; grows by these tokens.
            encoded: the output of `encode`, in the first step.
        """
        done, new = cache.layers[0].length, tokens.shape[1]
        index = torch.arange(done, done + new, device=tokens.device)
        y = self.decoder.add_positions(self.embedding(tokens), index)
        before = index[:, None] >= torch.arange(done + new, device=tokens.device)
        mask = joined(before if new > 1 else None, self.decoder.bias(new, done + new))
        input_mask = None if _all_real(cache.input_pairs) else (cache.input_pairs > 0)[:, None, None]
        for layer, layer_cache in zip(self.decoder.layers, cache.layers, strict=True):
            y = layer(y, encoded, mask, input_mask, layer_cache)
        # Padding rows of the embedding are not tokens.
        return self.logits(self.decoder.finish(y[:, -1])).float()[:, : self.config.vocab_size]


def _all_real(pairs: Tensor) -> bool:
    # On GPU the check would synchronize, which costs more than the mask.
    return pairs.is_cpu and bool((pairs == 1).all())
