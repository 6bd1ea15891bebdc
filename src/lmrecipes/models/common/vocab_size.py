"""The vocabulary size of a network, taken from the corpus."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from lightning.pytorch import LightningModule

Config = TypeVar("Config", bound=Any)


def corpus_of(module: LightningModule) -> Any:
    """The DataModule of the module's Trainer or Fabric loop, or None."""
    return getattr(module.trainer, "datamodule", None) if module._trainer or module._fabric else None


def with_vocabulary(config: Config, corpus: Any) -> Config:
    """The configuration with the corpus's number of tokens, where a recipe leaves it open.

    Raises:
        ValueError: if the recipe names another number.
    """
    if corpus is None:
        return config
    if config.vocab_size not in (0, corpus.vocab_size):
        raise ValueError(
            f"model.config.vocab_size is {config.vocab_size}, but the corpus has "
            f"{corpus.vocab_size} different tokens; 0 takes the corpus's number"
        )
    filled: Config = replace(config, vocab_size=corpus.vocab_size)
    return filled
