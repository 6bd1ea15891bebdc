"""ELECTRA (Clark et al. 2020, arXiv:2003.10555): a generator fills masks, a discriminator finds the replaced tokens.

Encoders and heads are transformers'. Here: what the two share, the generator's head at masked positions only, sampling,
and the losses. As published, the generator uses the discriminator's embeddings whole, layer norm included.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmrecipes.models.common.linear import filled, linear
from lmrecipes.models.common.unpadded import Packing
from lmrecipes.models.electra.config import ElectraConfig
from lmrecipes.models.electra.encoder import build_encoder, embed, encode, faster, initialize

# B sequences, T positions, N real tokens of all sequences, M of them to predict, V tokens of the vocabulary,
# E width of the embeddings, D of the discriminator, G of the generator.


class PretrainingOutput(NamedTuple):
    """Outputs of a forward pass; only the three losses carry gradients."""

    loss: Tensor
    """Weighted sum of the two losses."""
    generator_loss: Tensor
    """Mean over predicted positions, nats."""
    discriminator_loss: Tensor
    """Mean over real tokens, nats."""
    generator_logits: Tensor
    """(M, V)."""
    originals: Tensor
    """Original tokens at the predicted positions, (M,)."""
    sampled: Tensor
    """Tokens that the generator sampled there, (M,)."""
    discriminator_logits: Tensor
    """Logits of being replaced, (N,)."""
    replaced: Tensor
    """Whether each real token differs from the original, bool (N,)."""


class Electra(nn.Module):
    """Generator and discriminator."""

    def __init__(self, config: ElectraConfig) -> None:
        super().__init__()
        from transformers.models.electra.modeling_electra import (
            ElectraDiscriminatorPredictions,
            ElectraGeneratorPredictions,
        )

        self.config = config
        self.discriminator = build_encoder(config.transformers(), config.init_std)
        self.discriminator_head = ElectraDiscriminatorPredictions(config.transformers())
        self.generator = build_encoder(config.generator_transformers(), config.init_std)
        # Generator and discriminator share the discriminator's embeddings.
        del self.generator.embeddings
        self.generator_head = ElectraGeneratorPredictions(config.generator_transformers())
        self.generator_bias = nn.Parameter(torch.zeros(config.n_embeddings))
        for head in (self.discriminator_head, self.generator_head):
            initialize(head, config.init_std)
            faster(head)

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor,
        lengths: Tensor,
        positions: Tensor,
        originals: Tensor,
        weights: Tensor,
    ) -> PretrainingOutput:
        """Losses of a masked batch.

        Args:
            input_ids: tokens after masking, int64 (B, T).
            token_type_ids: segments, int64 (B, T).
            lengths: real tokens of each sequence, int64 (B,).
            positions: which to predict, int64 (B, P).
            originals: tokens that stood there, int64 (B, P).
            weights: 0 where a prediction does not count, (B, P).
        """
        packing = Packing.of(lengths, input_ids.device)
        masked_N, types_N = packing.pack(input_ids), packing.pack(token_type_ids)
        chosen_M = weights.cpu().flatten().nonzero().squeeze(1).to(input_ids.device, non_blocking=True)
        where_M = (positions + packing.starts[:, None]).flatten().index_select(0, chosen_M)
        originals_M = originals.flatten().index_select(0, chosen_M)

        logits_MV = self.generator_logits(masked_N, types_N, packing, where_M)
        generator_loss = F.cross_entropy(logits_MV.float(), originals_M)
        sampled_M = sample(logits_MV.detach(), self.config.temperature)

        text_N = _put(masked_N, where_M, originals_M)
        shown_N = _put(masked_N, where_M, sampled_M)
        replaced_N = shown_N != text_N
        found_N = self.discriminator_logits(shown_N, types_N, packing)
        discriminator_loss = F.binary_cross_entropy_with_logits(found_N.float(), replaced_N.float())

        return PretrainingOutput(
            loss=self.config.weighted(generator_loss, discriminator_loss),
            generator_loss=generator_loss,
            discriminator_loss=discriminator_loss,
            generator_logits=logits_MV.detach(),
            originals=originals_M,
            sampled=sampled_M,
            discriminator_logits=found_N.detach(),
            replaced=replaced_N,
        )

    def generator_logits(self, masked_N: Tensor, types_N: Tensor, packing: Packing, where_M: Tensor) -> Tensor:
        """The generator's logits at the positions to predict (M, V)."""
        hidden_NG = encode(self.generator, embed(self.discriminator, masked_N, types_N, packing), packing)
        hidden_ME = self.generator_head(hidden_NG.index_select(0, filled(where_M)))
        logits = linear(hidden_ME, self.discriminator.embeddings.word_embeddings.weight, self.generator_bias)
        return logits[: len(where_M)]

    def discriminator_logits(self, shown_N: Tensor, types_N: Tensor, packing: Packing) -> Tensor:
        """The discriminator's logits (N,)."""
        hidden_ND = encode(self.discriminator, embed(self.discriminator, shown_N, types_N, packing), packing)
        out: Tensor = self.discriminator_head(hidden_ND)
        return out[: len(shown_N)]


def _put(tokens_N: Tensor, where_M: Tensor, new_M: Tensor) -> Tensor:
    # A position may be sampled twice; the larger token id wins, deterministically on every device.
    return tokens_N.scatter_reduce(0, where_M, new_M, "amax", include_self=False)


@torch.no_grad()
def sample(logits: Tensor, temperature: float) -> Tensor:
    """A token from each row's distribution, by the largest of logits with Gumbel noise: (M, V) to (M,)."""
    noise = torch.rand(logits.shape, device=logits.device)
    noise.add_(1e-9).log_().neg_().add_(1e-9).log_().neg_()
    return noise.add_(logits, alpha=1 / temperature).argmax(-1)
