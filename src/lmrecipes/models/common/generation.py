"""Batched generation: greedy, sampling, beam search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from lmrecipes.config.validation import at_least
from lmrecipes.models.common.sampling import Sampling
from lmrecipes.runtime.dtensor import is_sharded

# Score of a hypothesis that cannot be selected.
_IMPOSSIBLE = -1e9
# Finished rows are dropped once they are a quarter of all.
_COMPACT_BELOW = 0.75


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How texts are generated: greedily, unless temperature or beams say otherwise."""

    max_new_tokens: int = 64
    """Maximum number of tokens, including the end."""
    temperature: float = 0.0
    """0 decodes greedily; above 0 tokens are sampled, below 1 from a sharper distribution."""
    top_k: int = 0
    """Sample from the k most probable tokens; 0 samples from all."""
    beams: int = 1
    """Hypotheses kept by beam search; 1 turns it off."""
    length_penalty: float = 1.0
    """Beam search divides a text's log-probability by its length to this power."""

    def __post_init__(self) -> None:
        """Validate the configuration.

        Raises:
            ValueError: naming the field and what would work.
        """
        at_least(self, "model.decoding.", max_new_tokens=1, beams=1, temperature=0, top_k=0)
        if self.top_k and not self.temperature:
            raise ValueError(
                f"model.decoding.top_k is {self.top_k}, but temperature 0 decodes greedily; set temperature to 1, "
                f"or top_k to 0"
            )
        if self.beams > 1 and self.temperature:
            raise ValueError(
                f"model.decoding has beams {self.beams} and temperature {self.temperature}; beam search "
                f"does not sample: set temperature to 0, or beams to 1"
            )


class Generated(NamedTuple):
    """Generated texts and their log-probabilities."""

    tokens: Tensor
    """Of each text and its end, int64 (B, length); padding behind it."""
    log_probs: Tensor
    """Of each token, float32 (B, length); 0 in padding."""


class KVCache(Protocol):
    """A key-value cache: one row for each text."""

    def reorder(self, rows: Tensor) -> None:
        """Reorders the cache to these rows, each from a row with the same input."""

    def select(self, rows: Tensor) -> None:
        """Selects rows of the cache, possibly repeated."""


@torch.no_grad()
def generate(
    network: Any, input_ids: Tensor, input_pairs: Tensor, start: int, end: int, decoding: Decoding, padding: int = 0
) -> Generated:
    """Texts for some inputs, one in each row.

    Args:
        network: in evaluation mode, with `encode`, `begin` and `step` as MT5 has them.
        input_ids: (B, T).
        input_pairs: 1 for a token of the input, 0 for padding, (B, T).
        start: token that decoding starts with.
        end: token that ends a text.
        decoding: how.
        padding: token that stands behind ended texts.
    """
    encoded, pairs = network.encode(input_ids, input_pairs)
    cache = network.begin(pairs, decoding.max_new_tokens)
    first = torch.full_like(input_ids[:, :1], start)
    write = _search if decoding.beams > 1 else _draw
    return write(network, cache, encoded, first, end, decoding, padding)


def _draw(
    network: Any, cache: KVCache, encoded: Tensor, new: Tensor, end: int, decoding: Decoding, padding: int
) -> Generated:
    size = (len(new), decoding.max_new_tokens)
    tokens = new.new_full(size, padding)
    log_probs = torch.zeros(size, device=new.device)
    sampling = Sampling(max_new_tokens=decoding.max_new_tokens, temperature=decoding.temperature, top_k=decoding.top_k)
    # Numbers of the texts that are still computed, and which of them are still written.
    rows = torch.arange(len(new), device=new.device)
    open_ = torch.ones_like(rows, dtype=torch.bool)
    length = 0
    for i in range(decoding.max_new_tokens):
        step = network.step(new, cache, encoded if i == 0 else None).log_softmax(-1)
        new = sampling.draw(step).where(open_[:, None], padding)
        tokens[rows, i] = new[:, 0]
        log_probs[rows, i] = step.gather(1, new)[:, 0].where(open_, 0)
        length, open_ = i + 1, open_ & (new[:, 0] != end)
        n_open = int(open_.sum())
        if _everywhere(network, n_open == 0):
            break
        if 0 < n_open <= _COMPACT_BELOW * len(rows):
            chosen = open_.nonzero().squeeze(1)
            cache.select(chosen)
            rows, new, open_ = rows[chosen], new[chosen], open_[chosen]
    return Generated(tokens[:, :length], log_probs[:, :length])


def _search(
    network: Any, cache: KVCache, encoded: Tensor, new: Tensor, end: int, decoding: Decoding, padding: int
) -> Generated:
    """Beam search as in transformers: the best finished hypothesis, once no open one can beat it."""
    B, K, max_len = len(new), decoding.beams, decoding.max_new_tokens
    scores = torch.zeros(B, 1, device=new.device)
    texts = new.new_empty(B, 1, 0)
    probs = scores.new_empty(B, 1, 0)
    ended = new.new_full((B, K, max_len), padding)
    ended_probs, ended_scores = scores.new_zeros(B, K, max_len), scores.new_full((B, K), _IMPOSSIBLE)
    has_ended = torch.zeros(B, K, dtype=torch.bool, device=new.device)
    improvable = torch.ones(B, 1, dtype=torch.bool, device=new.device)
    offsets = torch.arange(B, device=new.device)[:, None]
    for i in range(max_len):
        step = network.step(new, cache, encoded if i == 0 else None).log_softmax(-1)
        V, before = step.shape[-1], texts.shape[1]
        sums = (step.view(B, before, V) + scores[:, :, None]).flatten(1)
        top, index = sums.topk(min(2 * K, sums.shape[1]))
        parents, token = index // V, index % V
        grown = torch.cat([_rows(texts, parents), token[:, :, None]], dim=-1)
        grown_probs = torch.cat([_rows(probs, parents), step.view(B, -1).gather(1, index)[:, :, None]], dim=-1)
        ends = (token == end) | (i + 1 == max_len)

        # Finished among the best K; lower ranks only replace them among the open hypotheses.
        newly = ends & (torch.arange(token.shape[1], device=new.device) < K)
        new_scores = (top / (i + 1) ** decoding.length_penalty).masked_fill(~(newly & improvable), _IMPOSSIBLE)
        ended_scores, best = torch.cat([ended_scores, new_scores], dim=1).topk(K)
        behind = (0, max_len - i - 1)
        padded = torch.nn.functional.pad(grown, behind, value=padding)
        ended = _rows(torch.cat([ended, padded], dim=1), best)
        ended_probs = _rows(torch.cat([ended_probs, torch.nn.functional.pad(grown_probs, behind)], dim=1), best)
        has_ended = torch.cat([has_ended, newly], dim=1).gather(1, best)

        scores, going = top.masked_fill(ends, _IMPOSSIBLE).topk(K)
        texts, probs = _rows(grown, going), _rows(grown_probs, going)
        came_from = (parents.gather(1, going) + offsets * before).flatten()
        worst = torch.where(has_ended, ended_scores.amin(1, keepdim=True), _IMPOSSIBLE)
        best_possible = scores[:, :1] / (i + 1) ** decoding.length_penalty
        improvable = improvable & (best_possible > worst).any(1, keepdim=True)
        if _everywhere(network, i + 1 == max_len or not bool(improvable.any())):
            break
        (cache.select if i == 0 else cache.reorder)(came_from)
        new = texts[:, :, -1].reshape(-1, 1)
    best_text = ended[:, 0]
    length = int((best_text == end).int().argmax(1).where((best_text == end).any(1), max_len - 1).max()) + 1
    return Generated(best_text[:, :length], ended_probs[:, 0, :length])


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """Along the second dimension, (B, N, L) by (B, M) to (B, M, L)."""
    return values.gather(1, index[:, :, None].expand(-1, -1, values.shape[-1]))


def _everywhere(network: Any, done: bool) -> bool:
    """Whether all ranks are done, if the network is sharded."""
    if not is_sharded(network):
        return done
    parameters: Any = network.parameters  # type: ignore[attr-defined]
    open_ = torch.tensor(float(not done), device=next(parameters()).device)
    dist.all_reduce(open_, dist.ReduceOp.MAX)
    return not bool(open_)
