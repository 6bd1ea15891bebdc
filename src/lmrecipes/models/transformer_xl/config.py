"""Sizes of a Transformer-XL, its parameters and its arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, field

from lmrecipes.config.validation import at_least, is_probability
from lmrecipes.models.transformer_xl.adaptive import cluster_bounds


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
    """Vocabulary size; 0 takes the prepared corpus's."""
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
        at_least(self, "model.config.", vocab_size=0, n_layers=1, d_model=1, n_heads=1, d_head=1, d_ff=1, div_val=1)
        at_least(self, "model.config.", init_std=0, proj_init_std=0)
        if self.d_model % 2:
            raise ValueError(f"model.config.d_model is {self.d_model}; it must be even, such as {self.d_model + 1}")
        is_probability(self, "model.config.", "dropout", "attention_dropout")
        if any(a >= b for a, b in zip([0, *self.cutoffs], self.cutoffs, strict=False)):
            raise ValueError(f"model.config.cutoffs is {self.cutoffs}; they must be positive and increasing")
        if self.vocab_size and self.cutoffs and self.cutoffs[-1] >= self.vocab_size:
            raise ValueError(
                f"model.config.cutoffs is {self.cutoffs}, beyond the vocabulary of {self.vocab_size}; "
                f"the last must be below it, or model.config.vocab_size larger"
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

        Includes the keys and values of the memory, which are recomputed in every segment, both kinds of attention
        scores over all K positions, and the softmax over the frequent words. The softmax within rarer
        clusters depends on the text and is left out, so that a utilization from this number is a lower bound.
        """
        k, inner = seq_len + mem_len, self.n_heads * self.d_head
        projections = self.d_model * inner * (2 + 2 * k / seq_len)
        layer = projections + 3 * k * inner + 2 * self.d_model * self.d_ff
        head = self.d_model * ((self.cutoffs or [self.vocab_size])[0] + len(self.cutoffs))
        return 3 * 2 * (self.n_layers * layer + head)
