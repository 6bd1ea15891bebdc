"""Positions within a pair, and relative attention biases."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lmrecipes.models.mt5.config import MT5Config


def positions_in_pair(pairs_BT: Tensor) -> Tensor:
    """Position of each token in its pair, from 0: int64 (B, T)."""
    index_T = torch.arange(pairs_BT.shape[1], device=pairs_BT.device)
    begins_BT = torch.ones_like(pairs_BT, dtype=torch.bool)
    begins_BT[:, 1:] = pairs_BT[:, 1:] != pairs_BT[:, :-1]
    return index_T - (index_T * begins_BT).cummax(dim=1).values


def with_prompt(x_BTD: Tensor, pairs_BT: Tensor, prompt_PD: Tensor) -> tuple[Tensor, Tensor]:
    """Rows with the prompt before each pair's tokens, and the pairs of all these."""
    number, n_pairs = len(prompt_PD), int(pairs_BT.max())
    length = pairs_BT.shape[1] + number * n_pairs
    index_T = torch.arange(pairs_BT.shape[1], device=pairs_BT.device)
    # A token moves behind the prompts of its own and all earlier pairs; padding behind all prompts.
    moved_BT = index_T + number * pairs_BT.where(pairs_BT > 0, n_pairs)
    rows, firsts = ((positions_in_pair(pairs_BT) == 0) & (pairs_BT > 0)).nonzero(as_tuple=True)
    columns = moved_BT[rows, firsts][:, None] - number + torch.arange(number, device=pairs_BT.device)
    pairs = pairs_BT.new_zeros(len(pairs_BT), length).scatter(1, moved_BT, pairs_BT)
    pairs[rows[:, None], columns] = pairs_BT[rows, firsts][:, None]
    x = x_BTD.new_zeros(len(x_BTD), length, x_BTD.shape[-1])
    x = x.scatter(1, moved_BT[..., None].expand_as(x_BTD), x_BTD)
    return x.index_put((rows[:, None], columns), prompt_PD.to(x.dtype).expand(len(rows), -1, -1)), pairs


class PositionBias(nn.Module):
    """Biases of attention scores by the distance between two tokens (Raffel et al. 2020, arXiv:1910.10683, 2.1)."""

    def __init__(self, config: MT5Config, *, causal: bool) -> None:
        super().__init__()
        self.n_buckets, self.max_distance, self.causal = config.n_buckets, config.max_distance, causal

    def forward(self, table: Tensor, n_queries: int, n_keys: int) -> Tensor:
        """Biases (1, n, n_queries, n_keys) of queries that are the last of the keys.

        Args:
            table: (n, buckets).
            n_queries: number of queries.
            n_keys: number of keys.
        """
        distances = torch.arange(n_keys + n_queries - 1, device=table.device) - (n_keys - 1)
        by_distance = table[:, buckets(distances, self.n_buckets, self.max_distance, causal=self.causal)]
        # Row i of the matrix is the same numbers as row i + 1, one further to the right.
        return by_distance.unfold(1, n_keys, 1).flip(1)[None]


def buckets(distances: Tensor, n_buckets: int, max_distance: int, *, causal: bool) -> Tensor:
    """Bucket of the distance from query to key (key minus query): one for each of the near ones, then logarithmic.

    Args:
        distances: int64 of any shape.
        n_buckets: buckets in all; half for each direction unless causal.
        max_distance: greater distances share the last bucket.
        causal: whether queries attend to earlier keys only.
    """
    if causal:
        behind, first = (-distances).clamp(min=0), torch.zeros_like(distances)
    else:
        n_buckets //= 2
        behind, first = distances.abs(), (distances > 0) * n_buckets
    exact = n_buckets // 2
    # float32 as published: the bucket boundaries depend on its rounding.
    far = torch.log(behind.clamp(min=1).float() / exact) / math.log(max_distance / exact) * (n_buckets - exact)
    return first + torch.where(behind < exact, behind, (exact + far.long()).clamp(max=n_buckets - 1))
