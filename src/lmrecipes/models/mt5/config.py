"""Sizes of an mT5, NeMo's or Google's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from lmrecipes.config.validation import at_least, is_probability


@dataclass(frozen=True, kw_only=True)
class MT5Config:
    """An encoder and a decoder of equally many layers; defaults are those of NeMo's 170M.

    NeMo's family: layer norm, biases, attention scores divided by the root of d_head, one table for input and output,
    weights that begin with init_std. Its query-key layer scaling divides scores by the layer's number and multiplies
    them by it again in float32, against overflow in fp16: nothing is left of it here.
    Google's family (Xue et al. 2021, arXiv:2010.11934): RMS norm, no biases, scores as they are, an output table of
    its own, dropout also within the feed-forward network and after the last norm.
    """

    family: Literal["nemo", "google"] = "nemo"
    """Whose norms, biases, output table, attention scale and first weights."""
    positions: Literal["learned", "relative"] = "learned"
    """learned: vectors added to the embeddings (NeMo). relative: biases of self-attention by distance (Google)."""
    vocab_size: int = 0
    """Vocabulary size; 0 takes the corpus's."""
    vocab_multiple: int = 128
    """The table of tokens is filled up to a multiple of this."""
    d_model: int = 512
    """Width of the hidden states."""
    n_layers: int = 8
    """Layers of the encoder, and as many of the decoder."""
    n_heads: int = 6
    """Attention heads of each layer."""
    d_head: int = 64
    """Width of one head."""
    d_ff: int = 1024
    """Inner width of the gated feed-forward networks."""
    max_positions: int = 512
    """Longest text, where positions are learned."""
    n_buckets: int = 32
    """Distances told apart, where positions are relative; a multiple of 4."""
    max_distance: int = 128
    """Distance from which all are one, where positions are relative."""
    dropout: float = 0.1
    """Probability of dropping an embedding or an element of a sub-layer's output."""
    attention_dropout: float = 0.1
    """Probability of dropping an attention weight."""
    init_std: float = 0.015
    """Standard deviation of NeMo's first weights; Google's follow from the widths."""

    def __post_init__(self) -> None:
        """Validate the configuration.

        Raises:
            ValueError: naming the field and what would work.
        """
        sizes = dict.fromkeys(
            ("vocab_multiple", "d_model", "n_layers", "n_heads", "d_head", "d_ff", "max_positions"), 1
        )
        at_least(self, "model.config.", vocab_size=0, init_std=0, **sizes)
        if self.n_buckets < 4 or self.n_buckets % 4:
            raise ValueError(f"model.config.n_buckets is {self.n_buckets}; it must be a multiple of 4, such as 32")
        if self.max_distance <= self.n_buckets // 2:
            raise ValueError(
                f"model.config.max_distance is {self.max_distance}; it must be above half of n_buckets, "
                f"{self.n_buckets // 2}"
            )
        is_probability(self, "model.config.", "dropout", "attention_dropout")

    @property
    def n_embeddings(self) -> int:
        """Rows of the embedding."""
        return math.ceil(self.vocab_size / self.vocab_multiple) * self.vocab_multiple

    @property
    def is_google(self) -> bool:
        """Whether the family is Google's."""
        return self.family == "google"

    def n_matrices(self) -> int:
        """Parameters in tables and matrices: the size that is published, without biases and norms."""
        d, inner = self.d_model, self.n_heads * self.d_head
        attention, feed_forward = 4 * d * inner, 3 * d * self.d_ff
        tables = self.n_embeddings * d * (2 if self.is_google else 1)
        positions = self.max_positions * d if self.positions == "learned" else self.n_heads * self.n_buckets
        return self.n_layers * (3 * attention + 2 * feed_forward) + tables + 2 * positions

    def n_params(self) -> int:
        """All parameters."""
        d, inner = self.d_model, self.n_heads * self.d_head
        norms = (5 * self.n_layers + 2) * d
        if self.is_google:
            return self.n_matrices() + norms
        biases = self.n_layers * (3 * (3 * inner + d) + 2 * (2 * self.d_ff + d))
        return self.n_matrices() + 2 * norms + biases + self.n_embeddings

    def flops_per_token(self, input_len: int, target_len: int) -> float:
        """Floating-point operations to train on one token of inputs or targets, forward and backward.

        The products of matrices count, with a text's own length as the length that attention sees.
        """
        d, inner = self.d_model, self.n_heads * self.d_head
        feed_forward = 3 * d * self.d_ff
        # Cross-attention's keys and values are computed per input token.
        per_input = self.n_layers * (4 * d * inner + 2 * inner * input_len + feed_forward + 2 * d * inner)
        per_target = self.n_layers * (6 * d * inner + inner * (target_len + 1) + 2 * inner * input_len + feed_forward)
        total = input_len * per_input + target_len * (per_target + d * self.n_embeddings)
        return 6.0 * total / (input_len + target_len)
