"""Transformer-XL (Dai et al. 2019, arXiv:1901.02860): a decoder with segment memory and relative positions.

B batch, T tokens of the segment, M tokens of memory, K = M + T, D d_model, N heads, H head size.
Of the published kinds of attention only Transformer-XL's own is here, not the learned or absolute ones.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lmrecipes.models.common.dropout import Dropout
from lmrecipes.models.common.linear import Linear
from lmrecipes.models.transformer_xl.adaptive import AdaptiveVocabulary
from lmrecipes.models.transformer_xl.attention import masked_positions, relative_attention
from lmrecipes.models.transformer_xl.config import TransformerXLConfig


class RelativeAttention(nn.Module):
    """Multi-head attention over memory and segment."""

    def __init__(self, config: TransformerXLConfig) -> None:
        super().__init__()
        inner = config.n_heads * config.d_head
        self.d_head = config.d_head
        self.dropout = config.attention_dropout
        self.query = Linear(config.d_model, inner, bias=False)
        self.key_value = Linear(config.d_model, 2 * inner, bias=False)
        self.position = Linear(config.d_model, inner, bias=False)
        self.out = Linear(inner, config.d_model, bias=False)

    def forward(
        self, x_BTD: Tensor, context_BKD: Tensor, r_KD: Tensor, biases: tuple[Tensor, Tensor], masked_TK: Tensor
    ) -> Tensor:
        """Attends from the segment to memory and segment: (B, T, D)."""
        # Per head, and only this process's heads under tensor parallelism.
        q_BNTH = rearrange(self.query(x_BTD), "b t (n h) -> b n t h", h=self.d_head)
        k_BNKH, v_BNKH = rearrange(self.key_value(context_BKD), "b k (n two h) -> two b n k h", two=2, h=self.d_head)
        r_NKH = rearrange(self.position(r_KD), "k (n h) -> n k h", h=self.d_head)
        dropout = self.dropout if self.training else 0.0
        out = relative_attention(q_BNTH, k_BNKH, v_BNKH, r_NKH, *biases, masked_TK, dropout)
        return self.out(rearrange(out, "b n t h -> b t (n h)"))


class Layer(nn.Module):
    """Attention and feed-forward network, each with residual sum and normalization."""

    def __init__(self, config: TransformerXLConfig) -> None:
        super().__init__()
        self.pre_norm = config.pre_norm
        self.attention = RelativeAttention(config)
        self.attention_norm = nn.LayerNorm(config.d_model)
        self.ff_in = Linear(config.d_model, config.d_ff)
        self.ff_out = Linear(config.d_ff, config.d_model)
        self.ff_norm = nn.LayerNorm(config.d_model)
        self.dropout = Dropout(config.dropout)

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.ff_out(self.dropout(F.relu(self.ff_in(x)))))

    def forward(
        self, x: Tensor, memory: Tensor | None, r: Tensor, biases: tuple[Tensor, Tensor], masked: Tensor
    ) -> Tensor:
        """Hidden states of the segment, (B, T, D) to (B, T, D)."""
        context = x if memory is None else torch.cat([memory, x], dim=1)
        if self.pre_norm:
            context = self.attention_norm(context)
            x = x + self.dropout(self.attention(context[:, -x.shape[1] :], context, r, biases, masked))
            return x + self._feed_forward(self.ff_norm(x))
        x = self.attention_norm(x + self.dropout(self.attention(x, context, r, biases, masked)))
        return self.ff_norm(x + self._feed_forward(x))


class TransformerXL(nn.Module):
    """A language model over streams of segments, which remembers the hidden states of earlier segments."""

    def __init__(self, config: TransformerXLConfig) -> None:
        super().__init__()
        if config.vocab_size < 1:
            raise ValueError(f"model.config.vocab_size is {config.vocab_size}; the network needs the number of tokens")
        self.config = config
        self.vocabulary = AdaptiveVocabulary(
            config.vocab_size,
            config.d_model,
            config.cutoffs,
            config.div_val,
            config.tie_weights,
            config.projections_tied,
        )
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.n_layers))
        self.content_bias = nn.Parameter(torch.empty(config.n_heads, config.d_head))
        self.position_bias = nn.Parameter(torch.empty(config.n_heads, config.d_head))
        self.dropout = Dropout(config.dropout)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initializes as published: normal weights, zero biases, normalization weights around 1."""
        std = self.config.init_std
        # Embeddings last, so that a seed gives the same layers for any vocabulary.
        for name, parameter in sorted(self.named_parameters(), key=lambda item: item[0].startswith("vocabulary.")):
            if "projections" in name:
                nn.init.normal_(parameter, 0.0, self.config.proj_init_std)
            elif name.endswith("_norm.weight"):
                nn.init.normal_(parameter, 1.0, std)
            elif name.startswith("vocabulary.biases") or name.endswith((".bias", "cluster_bias")):
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, 0.0, std)

    def hidden_states(
        self,
        input_ids: Tensor,
        memory: list[Tensor] | None,
        *,
        mem_len: int,
        clamp_len: int = 0,
        same_length: bool = False,
    ) -> tuple[Tensor, list[Tensor]]:
        """Outputs of the last layer (B, T, d_model), and the new memory. See `forward`."""
        T = input_ids.shape[1]
        M = memory[0].shape[1] if memory else 0
        x = self.dropout(self.vocabulary.embed(input_ids))
        r = self.dropout(sinusoids(M + T, self.config.d_model, clamp_len, x.device).to(self.content_bias.dtype))
        masked = masked_positions(T, M, mem_len, same_length, x.device)
        biases = (self.content_bias, self.position_bias)
        inputs = []
        for i, layer in enumerate(self.layers):
            inputs.append(x)
            x = layer(x, memory[i].to(x.dtype) if memory else None, r, biases, masked)
        return self.dropout(x), remember(memory, inputs, mem_len)

    def forward(
        self,
        input_ids: Tensor,
        targets: Tensor,
        memory: list[Tensor] | None = None,
        *,
        mem_len: int,
        clamp_len: int = 0,
        same_length: bool = False,
    ) -> tuple[Tensor, list[Tensor]]:
        """Likelihood of the next tokens of one segment.

        Args:
            input_ids: (B, T).
            targets: (B, T), the tokens that follow.
            memory: per layer the inputs it had before, n_layers tensors (B, M, d_model); None at the start.
            mem_len: positions of memory to return.
            clamp_len: greater distances are clamped to it; 0 for no limit.
            same_length: whether every token attends to mem_len tokens back only.

        Returns:
            Negative log-likelihood per token, float32 (B, T), and the new memory, without gradient.
        """
        x, memory = self.hidden_states(input_ids, memory, mem_len=mem_len, clamp_len=clamp_len, same_length=same_length)
        nll = self.vocabulary.nll(x.reshape(-1, x.shape[-1]), targets.reshape(-1))
        return nll.view_as(targets), memory

    def log_probs(self, input_ids: Tensor, memory: list[Tensor] | None, **settings: Any) -> tuple[Tensor, list[Tensor]]:
        """Log-probabilities of every next token, float32 (B, T, vocab_size), and the new memory. See `forward`."""
        x, memory = self.hidden_states(input_ids, memory, **settings)
        return self.vocabulary.log_probs(x), memory


def sinusoids(length: int, d_model: int, clamp_len: int, device: torch.device) -> Tensor:
    """Encodings of the distances length - 1 ... 0, sines then cosines: (length, d_model)."""
    distance = torch.arange(length - 1, -1, -1, dtype=torch.float32, device=device)
    if clamp_len:
        distance = distance.clamp(max=clamp_len)
    frequency = 10000 ** -(torch.arange(0, d_model, 2, dtype=torch.float32, device=device) / d_model)
    angle = distance[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


@torch.no_grad()
def remember(memory: list[Tensor] | None, inputs: list[Tensor], mem_len: int) -> list[Tensor]:
    """The last mem_len positions of memory and segment, per layer, without gradient."""
    if mem_len == 0:
        return []
    kept = []
    for i, x in enumerate(inputs):
        x = x.detach()
        if memory and (torch.compiler.is_exporting() or x.shape[1] < mem_len):
            x = torch.cat([memory[i].to(x.dtype), x], dim=1)
        # In an exported program the length is dynamic: the caller truncates the memory.
        kept.append(x if torch.compiler.is_exporting() else x[:, -mem_len:])
    return kept
