"""Sampling the next token from a model's distribution, and the prompt and completion of a causal model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lmrecipes.config.validation import at_least


class PromptBatch(NamedTuple):
    """One text to be continued."""

    input_ids: Tensor
    """Tokens, int64 of shape (1, length)."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen."""

    max_new_tokens: int = 50
    """Tokens to generate."""
    temperature: float = 1.0
    """Below 1 sharpens the distribution; 0 decodes greedily."""
    top_k: int = 0
    """Sample from the k most probable tokens; 0 samples from all."""

    def __post_init__(self) -> None:
        """Validate the configuration.

        Raises:
            ValueError: naming the option and what would work.
        """
        at_least(self, "--", max_new_tokens=1, temperature=0)
        if self.top_k < 0:
            raise ValueError(f"--top_k is {self.top_k}; it must be 0 (all tokens) or more")

    def draw(self, log_probs: Tensor) -> Tensor:
        """Chooses one token per row.

        Args:
            log_probs: (batch, vocab_size).

        Returns:
            Token ids (batch, 1).
        """
        if self.temperature == 0:
            return log_probs.argmax(dim=-1, keepdim=True)
        # From the greatest on: a temperature near 0 would make everything infinite.
        scaled = (log_probs - log_probs.amax(-1, keepdim=True)).double() / self.temperature
        if self.top_k:
            k = min(self.top_k, scaled.shape[-1])
            scaled = scaled.masked_fill(scaled < scaled.topk(k).values[:, -1:], -torch.inf)
        return torch.multinomial(scaled.softmax(dim=-1), num_samples=1)


def prompt_tokens(text: str, vocabulary: Any) -> list[int]:
    """The token ids of a text that is to be continued.

    Raises:
        ValueError: if it has no tokens.
    """
    ids: list[int] = vocabulary.encode(text)
    if len(ids) <= len(vocabulary.encode("")):
        raise ValueError("the text is empty after tokenization")
    return ids


def continuation(text: str, vocabulary: Any, ids: Tensor) -> str:
    """A text with its continuation, of token ids (1, prompt + generated)."""
    return str(vocabulary.decode(ids[0].tolist())).strip()
