"""Adaptive input embedding and adaptive softmax with tied tables (Grave et al. 2017; Baevski and Auli 2019).

The vocabulary, sorted by frequency, is cut into clusters. Rarer clusters may have narrower vectors, and the softmax
first chooses between the frequent words and the rarer clusters, then within a cluster. Tables are kept per cluster, so
that the gradient of a step never touches more than it must.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmrecipes.models.common.linear import filled, linear
from lmrecipes.models.common.linear_cross_entropy import linear_nll


def cluster_bounds(vocab_size: int, cutoffs: list[int]) -> list[tuple[int, int]]:
    """First and last-plus-one token of every cluster."""
    edges = [0, *cutoffs, vocab_size]
    return list(pairwise(edges))


class AdaptiveVocabulary(nn.Module):
    """Both ends of the network: token ids to vectors, and vectors to the likelihood of the next token."""

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        cutoffs: list[int],
        div_val: int,
        tie_weights: bool,
        tie_projections: list[bool],
    ) -> None:
        super().__init__()
        self.bounds = cluster_bounds(vocab_size, cutoffs)
        self.d_model = d_model
        widths = [d_model // div_val**i for i in range(len(self.bounds))]
        sizes = [end - start for start, end in self.bounds]

        def tables() -> nn.ParameterList:
            return nn.ParameterList(nn.Parameter(torch.empty(n, d)) for n, d in zip(sizes, widths, strict=True))

        self.tables = tables()
        self.out_tables = self.tables if tie_weights else tables()
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(n)) for n in sizes)
        n_tails = len(sizes) - 1
        if n_tails:
            self.cluster_weight = nn.Parameter(torch.empty(n_tails, widths[0]))
            self.cluster_bias = nn.Parameter(torch.zeros(n_tails))
        self.projections: nn.ParameterList | None
        self.out_projections: nn.ParameterList | None
        if div_val > 1:
            self.projections = nn.ParameterList(nn.Parameter(torch.empty(d_model, d)) for d in widths)
            self.out_projections = nn.ParameterList(
                self.projections[i] if tied else nn.Parameter(torch.empty(d_model, d))
                for i, (d, tied) in enumerate(zip(widths, tie_projections, strict=True))
            )
        else:
            self.projections = None
            self.out_projections = None

    def embed(self, ids: Tensor) -> Tensor:
        """Vectors of tokens, times sqrt(d_model): ids (...) to (..., d_model)."""
        if len(self.bounds) == 1:
            vectors = self._lookup(0, ids)
        elif torch.compiler.is_compiling():
            # Shapes independent of the data, for the compiler.
            vectors = torch.zeros((), dtype=self.tables[0].dtype, device=ids.device)
            for i, (start, end) in enumerate(self.bounds):
                inside = ((ids >= start) & (ids < end)).unsqueeze(-1)
                vectors = vectors + self._lookup(i, (ids - start).clamp(0, end - start - 1)) * inside
        else:
            flat = ids.reshape(-1)
            parts, order = [], []
            for i, (start, end) in enumerate(self.bounds):
                where = ((flat >= start) & (flat < end)).nonzero().squeeze(1)
                order.append(where)
                parts.append(self._lookup(i, filled(flat[where] - start))[: len(where)])
            back = torch.cat(order).argsort()
            vectors = torch.cat(parts).index_select(0, back).view(*ids.shape, self.d_model)
        return vectors * self.d_model**0.5

    def _lookup(self, cluster: int, ids: Tensor) -> Tensor:
        # Sparse gradients add only a step's rows to the dense gradient from the tied softmax.
        sparse = self.out_tables is self.tables and self.tables[0].device.type == "cpu"
        sparse = sparse and torch.is_grad_enabled() and not torch.compiler.is_compiling()
        vectors = F.embedding(ids, self.tables[cluster], sparse=sparse)
        return vectors if self.projections is None else linear(vectors, self.projections[cluster])

    def _project(self, hidden: Tensor, cluster: int) -> Tensor:
        return hidden if self.out_projections is None else linear(hidden, self.out_projections[cluster].t())

    # Cluster sizes are data-dependent: keep this part out of torch.compile.
    @torch.compiler.disable
    def nll(self, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
        """Negative log-likelihood of each target, float32 of shape (N,)."""
        n_head = self.bounds[0][1]
        head = [self.out_tables[0], self.biases[0]]
        if len(self.bounds) == 1:
            return linear_nll(self._project(hidden_ND, 0), targets_N, *head)
        clusters = torch.zeros_like(targets_N)
        for start, _ in self.bounds[1:]:
            clusters += targets_N >= start
        # Column n_head + c - 1 of the head stands for cluster c.
        choice = torch.where(clusters == 0, targets_N, n_head + clusters - 1)
        nll = linear_nll(self._project(hidden_ND, 0), choice, *head, self.cluster_weight, self.cluster_bias)
        for i, (start, _) in enumerate(self.bounds[1:], start=1):
            # Also for an empty cluster, so that every parameter gets a gradient.
            where = (clusters == i).nonzero().squeeze(1)
            # Pad by one uncounted token: torch.export needs a non-empty dimension.
            chosen = torch.cat([where, where.new_zeros(1)]) if torch.compiler.is_exporting() else filled(where)
            tail = self._project(hidden_ND.index_select(0, chosen), i)
            within = (targets_N[chosen] - start).clamp(min=0, max=len(self.biases[i]) - 1)
            within_nll = linear_nll(tail, within, self.out_tables[i], self.biases[i])
            nll = nll.index_add(0, where, within_nll[: where.shape[0]])
        return nll

    def log_probs(self, hidden: Tensor) -> Tensor:
        """Log-probabilities of the whole vocabulary: (..., d_model) to (..., vocab_size), float32."""
        first = self._project(hidden, 0)
        logits = linear(first, self.out_tables[0], self.biases[0]).float()
        if len(self.bounds) == 1:
            return logits.log_softmax(-1)
        choice = linear(first, self.cluster_weight, self.cluster_bias).float()
        head = torch.cat([logits, choice], dim=-1).log_softmax(-1)
        n_head = self.bounds[0][1]
        parts = [head[..., :n_head]]
        for i in range(1, len(self.bounds)):
            tail = linear(self._project(hidden, i), self.out_tables[i], self.biases[i]).float().log_softmax(-1)
            parts.append(tail + head[..., n_head + i - 1].unsqueeze(-1))
        return torch.cat(parts, dim=-1)
