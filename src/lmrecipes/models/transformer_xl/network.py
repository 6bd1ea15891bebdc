"""Transformer-XL (Dai et al. 2019, arXiv:1901.02860): a decoder with segment memory and relative positions.

B batch, T tokens of the segment, M tokens of memory, K = M + T, D d_model, N heads, H head size.
Of the published kinds of attention only Transformer-XL's own is here, not the learned or absolute ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lmrecipes.config.validation import at_least
from lmrecipes.models.common.dropout import Dropout
from lmrecipes.models.common.linear import Linear
from lmrecipes.models.transformer_xl.adaptive import AdaptiveVocabulary, cluster_bounds
from lmrecipes.models.transformer_xl.attention import hidden_positions, relative_attention


@dataclass(frozen=True, kw_only=True)
class TransformerXLConfig:
    """Sizes of a Transformer-XL."""

    n_layers: int
    """Decoder layers."""
    d_model: int
    """Width of the hidden states and of the widest embeddings; even."""
    n_heads: int
    """Attention heads."""
    d_head: int
    """Width of one head."""
    d_ff: int
    """Inner width of the feed-forward layers."""
    vocab_size: int = 0
    """Different tokens; 0 takes the prepared corpus's number."""
    dropout: float = 0.1
    """Probability of dropping an embedding, position, or output of a sub-layer."""
    attention_dropout: float = 0.0
    """Probability of dropping an attention weight."""
    cutoffs: list[int] = field(default_factory=list)
    """First tokens of the rarer clusters of the adaptive softmax; empty for a plain softmax."""
    div_val: int = 1
    """How many times narrower the vectors of each rarer cluster are than of the one before."""
    tie_weights: bool = True
    """Whether embedding and softmax share their tables."""
    tie_projections: list[bool] = field(default_factory=list)
    """For each cluster whether embedding and softmax share its projection (div_val above 1); empty shares all."""
    pre_norm: bool = False
    """Normalize before each sub-layer instead of after its residual sum."""
    init_std: float = 0.02
    """Standard deviation of initial weights."""
    proj_init_std: float = 0.01
    """Standard deviation of the initial projections of the adaptive embedding."""

    def __post_init__(self) -> None:
        """Validate the configuration.

        Raises:
            ValueError: naming the field, the value and what would work.
        """
        at_least(self, "model.config.", n_layers=1, d_model=1, n_heads=1, d_head=1, d_ff=1, div_val=1)
        if self.vocab_size < 0:
            raise ValueError(f"model.config.vocab_size is {self.vocab_size}; it must be 0 (the corpus's) or more")
        if self.d_model % 2:
            raise ValueError(f"model.config.d_model is {self.d_model}; it must be even, such as {self.d_model + 1}")
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"model.config.{name} is {getattr(self, name)}; it must be at least 0 and below 1")
        if any(a >= b for a, b in zip([0, *self.cutoffs], self.cutoffs, strict=False)):
            raise ValueError(f"model.config.cutoffs is {self.cutoffs}; they must be positive and increasing")
        if self.vocab_size and self.cutoffs and self.cutoffs[-1] >= self.vocab_size:
            raise ValueError(
                f"model.config.cutoffs is {self.cutoffs}, beyond the vocabulary of {self.vocab_size}; "
                f"the last must be below {self.vocab_size}"
            )
        if self.d_model // self.div_val ** len(self.cutoffs) < 1:
            raise ValueError(
                f"model.config.div_val is {self.div_val}, which leaves nothing of d_model {self.d_model} "
                f"for cluster {len(self.cutoffs)}; a smaller one would"
            )
        if len(self.tie_projections) not in (0, len(self.cutoffs) + 1):
            raise ValueError(
                f"model.config.tie_projections has {len(self.tie_projections)} entries; "
                f"{len(self.cutoffs)} cutoffs make {len(self.cutoffs) + 1} clusters"
            )

    @property
    def projections_tied(self) -> list[bool]:
        """tie_projections for every cluster."""
        return self.tie_projections or [True] * (len(self.cutoffs) + 1)

    def n_params(self) -> int:
        """Trainable parameters."""
        d, inner = self.d_model, self.n_heads * self.d_head
        layer = 5 * d * inner + 2 * d * self.d_ff + self.d_ff + d + 4 * d
        total = self.n_layers * layer + 2 * inner + self.vocab_size + len(self.cutoffs) * (d + 1)
        for i, (start, end) in enumerate(cluster_bounds(self.vocab_size, self.cutoffs)):
            width = d // self.div_val**i
            total += (end - start) * width * (1 if self.tie_weights else 2)
            if self.div_val > 1:
                total += d * width * (1 if self.projections_tied[i] else 2)
        return total

    def flops_per_token(self, seq_len: int, mem_len: int) -> float:
        """Floating-point operations of matrix products to train on one token: three times those of a forward pass.

        Counted are keys and values of the memory too, which are computed anew in every segment, both kinds of
        attention scores over all K positions, and the softmax over the frequent words. The softmax within rarer
        clusters depends on the text and is left out, so that a utilization from this number is a lower bound.
        """
        k, inner = seq_len + mem_len, self.n_heads * self.d_head
        projections = self.d_model * inner * (2 + 2 * k / seq_len)
        layer = projections + 3 * k * inner + 2 * self.d_model * self.d_ff
        head = self.d_model * ((self.cutoffs or [self.vocab_size])[0] + len(self.cutoffs))
        return 3 * 2 * (self.n_layers * layer + head)


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
        self,
        x_BTD: Tensor,
        context_BKD: Tensor,
        r_KD: Tensor,
        biases: tuple[Tensor, Tensor],
        hidden_TK: Tensor,
    ) -> Tensor:
        """Attends from the segment to memory and segment: (B, T, D)."""
        # Per head, and only this process's heads under tensor parallelism.
        q_BNTH = rearrange(self.query(x_BTD), "b t (n h) -> b n t h", h=self.d_head)
        k_BNKH, v_BNKH = rearrange(self.key_value(context_BKD), "b k (n two h) -> two b n k h", two=2, h=self.d_head)
        r_NKH = rearrange(self.position(r_KD), "k (n h) -> n k h", h=self.d_head)
        dropout = self.dropout if self.training else 0.0
        out = relative_attention(q_BNTH, k_BNKH, v_BNKH, r_NKH, *biases, hidden_TK, dropout)
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
        self, x: Tensor, memory: Tensor | None, r: Tensor, biases: tuple[Tensor, Tensor], hidden: Tensor
    ) -> Tensor:
        """Hidden states of the segment, (B, T, D) to (B, T, D)."""
        context = x if memory is None else torch.cat([memory, x], dim=1)
        if self.pre_norm:
            context = self.attention_norm(context)
            x = x + self.dropout(self.attention(context[:, -x.shape[1] :], context, r, biases, hidden))
            return x + self._feed_forward(self.ff_norm(x))
        x = self.attention_norm(x + self.dropout(self.attention(x, context, r, biases, hidden)))
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
        hidden = hidden_positions(T, M, mem_len, same_length, x.device)
        biases = (self.content_bias, self.position_bias)
        inputs = []
        for i, layer in enumerate(self.layers):
            inputs.append(x)
            x = layer(x, memory[i].to(x.dtype) if memory else None, r, biases, hidden)
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
            memory: per layer the inputs it had before, n_layers tensors (B, M, d_model); None at the beginning.
            mem_len: how many positions of memory to hand on.
            clamp_len: largest distance told apart, 0 for no limit.
            same_length: whether every token sees only mem_len tokens back.

        Returns:
            Negative log-likelihood per token, float32 (B, T), and the new memory, without gradient.
        """
        x, memory = self.hidden_states(input_ids, memory, mem_len=mem_len, clamp_len=clamp_len, same_length=same_length)
        nll = self.vocabulary.nll(x.reshape(-1, x.shape[-1]), targets.reshape(-1))
        return nll.view_as(targets), memory

    def log_probs(
        self,
        input_ids: Tensor,
        memory: list[Tensor] | None,
        *,
        mem_len: int,
        clamp_len: int = 0,
        same_length: bool = False,
    ) -> tuple[Tensor, list[Tensor]]:
        """Log-probabilities of every next token, float32 (B, T, vocab_size), and the new memory. See `forward`."""
        x, memory = self.hidden_states(input_ids, memory, mem_len=mem_len, clamp_len=clamp_len, same_length=same_length)
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
