"""Layers of mT5's encoder and decoder.

B rows, T tokens, S tokens that are attended to, D d_model, n heads (under tensor parallelism this process's), h d_head.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lmrecipes.models.common.attention import attend
from lmrecipes.models.common.dropout import Dropout
from lmrecipes.models.common.linear import Linear
from lmrecipes.models.mt5.config import MT5Config

Heads = tuple[Tensor, Tensor]
"""Keys and values, (B, n, S, h) each."""


def norm(config: MT5Config) -> nn.Module:
    """The family's normalization, with its published epsilon."""
    if config.is_google:
        return nn.RMSNorm(config.d_model, eps=1e-6)
    return nn.LayerNorm(config.d_model, eps=1e-5)


@dataclass
class LayerCache:
    """Key-value cache of a decoder layer."""

    capacity: int
    """Maximum number of tokens."""
    length: int = 0
    """Tokens so far."""
    heads: list[Tensor] = field(default_factory=list)
    """Keys and values of the tokens so far, with room for the rest."""
    input_heads: list[Tensor] = field(default_factory=list)
    """Keys and values of the input."""

    def grow(self, heads: Heads) -> Heads:
        """Adds the next tokens' keys and values; returns those of all so far."""
        if not self.heads:
            self.heads = [x.new_empty(*x.shape[:2], self.capacity, x.shape[3]) for x in heads]
        end = self.length + heads[0].shape[2]
        for cached, new in zip(self.heads, heads, strict=True):
            cached[:, :, self.length : end] = new
        self.length = end
        keys, values = (x[:, :, :end] for x in self.heads)
        return keys, values

    def reorder(self, rows: Tensor) -> None:
        """Reorders the cache to these rows, each from a row with the same input."""
        for cached in self.heads:
            cached[:, :, : self.length] = cached[rows, :, : self.length]

    def select(self, rows: Tensor) -> None:
        """Selects rows of the cache, possibly repeated."""
        self.heads = [x.index_select(0, rows) for x in self.heads]
        self.input_heads = [x.index_select(0, rows) for x in self.input_heads]


class Attention(nn.Module):
    """Multi-head attention."""

    def __init__(self, config: MT5Config) -> None:
        super().__init__()
        inner, bias = config.n_heads * config.d_head, not config.is_google
        self.d_head, self.dropout = config.d_head, config.attention_dropout
        self.scale = 1.0 if config.is_google else config.d_head**-0.5
        self.query = Linear(config.d_model, inner, bias=bias)
        self.key = Linear(config.d_model, inner, bias=bias)
        self.value = Linear(config.d_model, inner, bias=bias)
        self.out = Linear(inner, config.d_model, bias=bias)

    def _heads(self, x_BTI: Tensor) -> Tensor:
        return rearrange(x_BTI, "b t (n h) -> b n t h", h=self.d_head)

    def keys_and_values(self, x_BSD: Tensor) -> Heads:
        """Keys and values for cross-attention."""
        return self._heads(self.key(x_BSD)), self._heads(self.value(x_BSD))

    def forward(self, x_BTD: Tensor, heads: Heads, mask: Tensor | None) -> Tensor:
        """Attends to keys and values: (B, T, D); mask as in `attend`."""
        p = self.dropout if self.training else 0.0
        out_BnTh = attend(self._heads(self.query(x_BTD)), *heads, mask, scale=self.scale, p=p)
        out: Tensor = self.out(rearrange(out_BnTh, "b n t h -> b t (n h)"))
        return out


class FeedForward(nn.Module):
    """gelu(x G) * (x U), and back; gelu by tanh, as both families have it."""

    def __init__(self, config: MT5Config) -> None:
        super().__init__()
        bias = not config.is_google
        self.gate = Linear(config.d_model, config.d_ff, bias=bias)
        self.up = Linear(config.d_model, config.d_ff, bias=bias)
        self.down = Linear(config.d_ff, config.d_model, bias=bias)
        self.dropout = Dropout(config.dropout if config.is_google else 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        inner = F.gelu(self.gate(x), approximate="tanh") * self.up(x)
        out: Tensor = self.down(self.dropout(inner))
        return out


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward network, each behind a norm and added to its input."""

    def __init__(self, config: MT5Config) -> None:
        super().__init__()
        self.attention_norm = norm(config)
        self.attention = Attention(config)
        self.ff_norm = norm(config)
        self.ff = FeedForward(config)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        normed = self.attention_norm(x)
        x = x + self.dropout(self.attention(normed, self.attention.keys_and_values(normed), mask))
        return x + self.dropout(self.ff(self.ff_norm(x)))


class DecoderLayer(nn.Module):
    """Self-attention, attention to the input, and feed-forward network."""

    def __init__(self, config: MT5Config) -> None:
        super().__init__()
        self.attention_norm = norm(config)
        self.attention = Attention(config)
        self.input_norm = norm(config)
        self.input_attention = Attention(config)
        self.ff_norm = norm(config)
        self.ff = FeedForward(config)
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        encoded: Tensor | None,
        mask: Tensor | None,
        input_mask: Tensor | None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """(B, T, D) to (B, T, D).

        Args:
            x: hidden states of the target's tokens; with a cache only of those that follow.
            encoded: what the encoder made of the input (B, S, D); not needed when the cache has its keys.
            mask: of self-attention.
            input_mask: of attention to the input.
            cache: what is kept from token to token.
        """
        normed = self.attention_norm(x)
        keys_and_values = self.attention.keys_and_values(normed)
        x = x + self.dropout(
            self.attention(normed, keys_and_values if cache is None else cache.grow(keys_and_values), mask)
        )
        if cache is None or not cache.input_heads:
            assert encoded is not None
            input_heads = self.input_attention.keys_and_values(encoded)
            if cache is not None:
                cache.input_heads = list(input_heads)
        else:
            input_heads = (cache.input_heads[0], cache.input_heads[1])
        x = x + self.dropout(self.input_attention(self.input_norm(x), input_heads, input_mask))
        return x + self.dropout(self.ff(self.ff_norm(x)))


def same_pair(queries_BT: Tensor, keys_BS: Tensor) -> Tensor:
    """Attention mask within pairs: bool (B, 1, T, S). Padding attends to everything, to avoid empty rows."""
    seen = (queries_BT[:, :, None] == keys_BS[:, None, :]) | (queries_BT == 0)[:, :, None]
    return seen[:, None]


def joined(mask: Tensor | None, bias: Tensor | None) -> Tensor | None:
    """Mask and biases as one."""
    if bias is None or mask is None:
        return mask if bias is None else bias
    return bias.masked_fill(~mask, -torch.inf)
