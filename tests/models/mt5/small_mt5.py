"""Small networks and batches of text pairs."""

import torch

from lmrecipes.batches import TextPairBatch
from lmrecipes.models.mt5 import MT5, MT5Config

SMALL = {"vocab_size": 250, "d_model": 32, "n_layers": 2, "n_heads": 2, "d_head": 8, "d_ff": 48, "max_positions": 64}
GOOGLE = {"family": "google", "positions": "relative", "n_buckets": 8, "max_distance": 12}
FAMILIES = {"nemo": {}, "google": GOOGLE, "nemo with distances": {"positions": "relative"}}


def small_network(dropout: float = 0.0, seed: int = 0, **settings) -> MT5:
    """A network whose norms and biases differ from their initial values, with weights large enough to matter."""
    torch.manual_seed(seed)
    network = MT5(MT5Config(**{**SMALL, "dropout": dropout, "attention_dropout": dropout, **settings}))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
            elif not network.config.is_google:
                parameter.mul_(10)
            elif name.endswith("distances"):
                parameter.mul_(5)
    return network


def pair_batch(rows: list[list[tuple[int, int]]], seed: int = 0) -> TextPairBatch:
    """Rows of pairs of random texts with these lengths of input and target."""
    generator = torch.Generator().manual_seed(seed)
    width, target_width = (max(sum(pair[k] for pair in row) for row in rows) for k in (0, 1))
    ids, pairs = (torch.zeros(len(rows), width, dtype=torch.int64) for _ in range(2))
    shifted, targets, target_pairs = (torch.zeros(len(rows), target_width, dtype=torch.int64) for _ in range(3))
    for r, row in enumerate(rows):
        at = target_at = 0
        for number, (length, target_length) in enumerate(row, start=1):
            ids[r, at : at + length] = torch.randint(3, 250, (length,), generator=generator)
            pairs[r, at : at + length] = number
            text = torch.randint(3, 250, (target_length,), generator=generator)
            end = target_at + target_length
            targets[r, target_at:end] = text
            shifted[r, target_at + 1 : end] = text[:-1]
            target_pairs[r, target_at:end] = number
            at, target_at = at + length, end
    n = torch.arange(len(rows))
    return TextPairBatch(ids, pairs, shifted, targets, target_pairs, torch.zeros_like(n), n)


def network_inputs(batch: TextPairBatch) -> dict[str, torch.Tensor]:
    """The arguments that a network takes from a batch."""
    return {name: value for name, value in batch._asdict().items() if name not in ("languages", "questions")}


def single_pair(batch: TextPairBatch, row: int, pair: int) -> TextPairBatch:
    """One pair as a batch."""
    here, there = batch.input_pairs[row] == pair, batch.target_pairs[row] == pair
    one = torch.ones(1, dtype=torch.int64)
    return TextPairBatch(
        batch.input_ids[row, here][None],
        one.expand(1, int(here.sum())),
        batch.decoder_input_ids[row, there][None],
        batch.targets[row, there][None],
        one.expand(1, int(there.sum())),
        one,
        one,
    )
