"""Masked batches and small networks for tests of ELECTRA."""

import torch

from lmrecipes.batches import MaskedBatch
from lmrecipes.models.electra import ElectraConfig

V, MASK = 60, 4
SMALL = {
    "vocab_size": V,
    "d_embedding": 16,
    "d_model": 32,
    "n_layers": 2,
    "n_heads": 2,
    "d_ff": 64,
    "max_positions": 24,
}


def small_config(**more):
    quiet = {"dropout": 0.0, "attention_dropout": 0.0, "init_std": 0.2}
    return ElectraConfig(**{**SMALL, **quiet, "generator_size": 0.5, "generator_d_head": 8, **more})


def masked_batch(lengths=(12, 7, 9), n_predictions=3, seed=0):
    """Sequences of random tokens, some masked; the shortest has one prediction fewer than the maximum."""
    random = torch.Generator().manual_seed(seed)
    lengths = torch.tensor(lengths)
    longest = int(lengths.max())
    real = torch.arange(longest) < lengths[:, None]
    text = torch.randint(5, V, (len(lengths), longest), generator=random) * real
    columns = [torch.randperm(int(n) - 2, generator=random)[:n_predictions] + 1 for n in lengths]
    positions = torch.stack(columns)
    weights = torch.ones(positions.shape)
    shortest = int(lengths.argmin())
    weights[shortest, -1] = positions[shortest, -1] = 0
    originals = text.gather(1, positions)
    masked = text.scatter(1, positions, MASK)
    masked[shortest, 0] = text[shortest, 0]
    types = (torch.arange(longest) >= lengths[:, None] // 2).long() * real
    return MaskedBatch(masked, types, lengths, positions, originals, weights)
