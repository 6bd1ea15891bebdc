"""Sizes of ELECTRA's networks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from lmrecipes.config.validation import at_least, is_probability, nearest_divisor


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """One encoder, the discriminator's; defaults are those of ELECTRA small."""

    vocab_size: int = 0
    """Vocabulary size; 0 takes the corpus's."""
    vocab_multiple: int = 1
    """The embedding is padded to a multiple of this number of rows (NVIDIA: 8)."""
    d_embedding: int = 128
    """Width of the embeddings."""
    d_model: int = 256
    """Width of the encoder."""
    n_layers: int = 12
    """Layers of the encoder."""
    n_heads: int = 4
    """Attention heads of each layer."""
    d_ff: int = 1024
    """Inner width of the feed-forward networks."""
    dropout: float = 0.1
    """Probability of dropping an element of a layer's output."""
    attention_dropout: float = 0.1
    """Probability of dropping an attention weight."""
    max_positions: int = 512
    """Longest sequence."""
    init_std: float = 0.02
    """Standard deviation of the truncated normal initialization."""

    def __post_init__(self) -> None:
        """Validate the configuration.

        Raises:
            ValueError: naming the field and what would work.
        """
        at_least(self, "model.config.", vocab_size=0)
        if not self.init_std > 0:
            raise ValueError(f"model.config.init_std is {self.init_std}; it must be above 0")
        sizes = ("vocab_multiple", "d_embedding", "d_model", "n_layers", "n_heads", "d_ff", "max_positions")
        at_least(self, "model.config.", **dict.fromkeys(sizes, 1))
        if self.d_model % self.n_heads:
            raise ValueError(
                f"model.config.n_heads is {self.n_heads} and does not divide d_model {self.d_model}; "
                f"{nearest_divisor(self.d_model, self.n_heads)} would"
            )
        is_probability(self, "model.config.", "dropout", "attention_dropout")

    def check_length(self, seq_len: int | None) -> None:
        """Refuses sequences for whose last tokens there are no positions.

        Args:
            seq_len: tokens of the longest sequence, batch.seq_len.

        Raises:
            ValueError: naming both settings.
        """
        if seq_len is not None and seq_len > self.max_positions:
            raise ValueError(
                f"batch.seq_len is {seq_len}, but model.config.max_positions is {self.max_positions}; make the one "
                f"smaller or the other larger"
            )

    @property
    def n_embeddings(self) -> int:
        """Rows of the embedding."""
        return math.ceil(self.vocab_size / self.vocab_multiple) * self.vocab_multiple

    def transformers(self) -> Any:
        """The same as transformers' ElectraConfig."""
        import transformers

        return transformers.ElectraConfig(
            vocab_size=self.n_embeddings,
            embedding_size=self.d_embedding,
            hidden_size=self.d_model,
            num_hidden_layers=self.n_layers,
            num_attention_heads=self.n_heads,
            intermediate_size=self.d_ff,
            hidden_dropout_prob=self.dropout,
            attention_probs_dropout_prob=self.attention_dropout,
            max_position_embeddings=self.max_positions,
            initializer_range=self.init_std,
        )

    def n_embedding_params(self) -> int:
        """Parameters of the tables and their layer norm."""
        return (self.n_embeddings + self.max_positions + 2 + 2) * self.d_embedding

    def encoder_flops_per_token(self, seq_len: int) -> float:
        """Floating-point operations of the layers for one token, forward and backward."""
        return _flops(self.d_embedding, self.d_model, self.d_ff, self.n_layers, seq_len)


def _layer_params(width: int, inner: int) -> int:
    return 4 * width * (width + 1) + width * inner * 2 + inner + width + 4 * width


def _encoder_params(embedding: int, width: int, inner: int, n_layers: int) -> int:
    project = (embedding + 1) * width if embedding != width else 0
    return project + n_layers * _layer_params(width, inner)


def _flops(embedding: int, width: int, inner: int, n_layers: int, seq_len: int) -> float:
    project = embedding * width if embedding != width else 0
    # 2 FLOPs per weight forward, 4 backward.
    return 6.0 * (project + n_layers * (4 * width * width + 2 * width * inner + 2 * seq_len * width))


@dataclass(frozen=True, kw_only=True)
class ElectraConfig(EncoderConfig):
    """Generator and discriminator."""

    generator_size: float = 0.25
    """Width of the generator as a multiple of d_model."""
    generator_layers: float = 1.0
    """Layers of the generator as a multiple of n_layers."""
    generator_d_head: int = 64
    """Width of each of the generator's heads."""
    generator_rounding: Literal["nearest", "up"] = "nearest"
    """The generator's width: the nearest whole number (Google), or up to a multiple of generator_d_head (NVIDIA)."""
    generator_weight: float = 1.0
    """Factor of the generator's loss."""
    discriminator_weight: float = 50.0
    """Factor of the discriminator's loss."""
    temperature: float = 1.0
    """Temperature of sampling from the generator."""

    def __post_init__(self) -> None:
        """Validate the configuration.

        Raises:
            ValueError: naming the field and what would work.
        """
        super().__post_init__()
        at_least(self, "model.config.", generator_weight=0, discriminator_weight=0)
        for name in ("generator_size", "generator_layers", "generator_d_head", "temperature"):
            if getattr(self, name) <= 0:
                raise ValueError(f"model.config.{name} is {getattr(self, name)}; it must be above 0")
        width, heads = self.generator_d_model, self.generator_heads
        if width % heads:
            raise ValueError(
                f"model.config.generator_size is {self.generator_size}, which makes the generator {width} wide, and "
                f"its {heads} heads do not divide that; generator_rounding up would"
            )

    def weighted(self, generator_loss: Tensor, discriminator_loss: Tensor) -> Tensor:
        """What pretraining minimizes."""
        return self.generator_weight * generator_loss + self.discriminator_weight * discriminator_loss

    @property
    def generator_d_model(self) -> int:
        """Width of the generator."""
        width = self.generator_size * self.d_model
        if self.generator_rounding == "nearest":
            return max(1, round(width))
        return math.ceil(width / self.generator_d_head) * self.generator_d_head

    @property
    def generator_heads(self) -> int:
        """Heads of the generator."""
        return max(1, self.generator_d_model // self.generator_d_head)

    @property
    def generator_d_ff(self) -> int:
        """Inner width of the generator's feed-forward networks."""
        return 4 * self.generator_d_model

    @property
    def generator_n_layers(self) -> int:
        """Layers of the generator."""
        return max(1, round(self.generator_layers * self.n_layers))

    def generator_transformers(self) -> Any:
        """The generator's sizes as transformers' ElectraConfig."""
        config = self.transformers()
        config.hidden_size = self.generator_d_model
        config.num_hidden_layers = self.generator_n_layers
        config.num_attention_heads = self.generator_heads
        config.intermediate_size = self.generator_d_ff
        return config

    def n_params(self) -> int:
        """Parameters of both networks."""
        generator, embedding = self.generator_d_model, self.d_embedding
        heads = (self.d_model + 1) * self.d_model + self.d_model + 1
        heads += (generator + 1) * embedding + 2 * embedding + self.n_embeddings
        return (
            self.n_embedding_params()
            + _encoder_params(embedding, self.d_model, self.d_ff, self.n_layers)
            + _encoder_params(embedding, generator, self.generator_d_ff, self.generator_n_layers)
            + heads
        )

    def flops_per_token(self, seq_len: int, predicted: float) -> float:
        """Floating-point operations to train on one token, forward and backward.

        Args:
            seq_len: tokens of a sequence.
            predicted: share of the tokens that the generator predicts.
        """
        generator, embedding = self.generator_d_model, self.d_embedding
        heads = 6.0 * (self.d_model * self.d_model + self.d_model)
        heads += 6.0 * predicted * embedding * (generator + self.n_embeddings)
        return (
            self.encoder_flops_per_token(seq_len)
            + _flops(embedding, generator, self.generator_d_ff, self.generator_n_layers, seq_len)
            + heads
        )


@dataclass(frozen=True, kw_only=True)
class ReaderConfig(EncoderConfig):
    """An encoder with a head that finds answers in a text."""

    head: Literal["simple", "google", "nvidia"] = "simple"
    """simple: start and end by themselves; google and nvidia: their joint heads, the end given the start."""
    beam: int = 20
    """Starts for each of which ends are scored at inference, by the joint heads (Google: 20, NVIDIA: 5)."""
    answerable: bool = True
    """Whether a joint head also learns if there is an answer (Google: always; NVIDIA: for SQuAD 2.0)."""
    d_answer: int = 512
    """Inner width of Google's head."""

    def __post_init__(self) -> None:
        """Validate the configuration.

        Raises:
            ValueError: naming the field and what would work.
        """
        super().__post_init__()
        at_least(self, "model.config.", beam=1, d_answer=1)

    def n_params(self) -> int:
        """Parameters of the encoder; those of the head are few."""
        return self.n_embedding_params() + _encoder_params(self.d_embedding, self.d_model, self.d_ff, self.n_layers)

    def flops_per_token(self, seq_len: int) -> float:
        """Floating-point operations to train on one token, forward and backward; heads are left out."""
        return self.encoder_flops_per_token(seq_len)
