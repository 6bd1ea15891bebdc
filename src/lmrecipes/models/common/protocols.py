"""Protocols that commands, callbacks and strategies require of a LightningModule; a model implements those that apply.

Nothing depends on a concrete model. A model that lacks a protocol is refused by name if a command needs it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lmrecipes.checkpoints.weights import SelectsWeights
from lmrecipes.models.common.parallel_plan import ParallelPlan

__all__ = [
    "ChecksPrecision",
    "Countable",
    "ExportsHF",
    "ExportsPrograms",
    "ExportsWeights",
    "Generates",
    "Parallelizable",
    "ReadsBatchPlan",
    "Rehearses",
    "ScoresText",
    "SelectsWeights",
    "TypesBatches",
]


@runtime_checkable
class Countable(Protocol):
    """A model whose throughput can be measured."""

    def count(self, batch: Any) -> tuple[int, int]:
        """Sequences and trained tokens of a batch of this rank."""

    def flops_per_token(self) -> float:
        """Floating-point operations to train on one token, forward and backward."""


@runtime_checkable
class Parallelizable(Protocol):
    """A model that strategies may shard and split."""

    parallel_plan: ParallelPlan
    """What of the network may be split over processes."""


@runtime_checkable
class Generates(Protocol):
    """A model that generates text: `lmrecipes predict --text`."""

    sampling: Any
    """How tokens are chosen: a dataclass of max_new_tokens, temperature, top_k."""

    def prompt(self, text: str, vocabulary: Any) -> list[int]:
        """Token ids of the network's input for a text.

        Raises:
            ValueError: if no token is left of it.
        """

    def completion(self, text: str, vocabulary: Any, output: Any) -> str:
        """What to print for an output of `predict_step`."""


@runtime_checkable
class ScoresText(Protocol):
    """A causal language model: `lmrecipes score`."""

    def score_tokens(self, ids: list[int]) -> float:
        """Mean negative log-likelihood, in nats, of every token of a text but the first."""


@runtime_checkable
class ExportsPrograms(Protocol):
    """A model whose network is exported as compiled programs: `lmrecipes export --format torch_export`."""

    def export(self, folder: Path, form: str) -> None:
        """Writes the network as programs; `models.common.exported_program` has the forms."""

    def use_programs(self, folder: Path, split: str = "test") -> None:
        """Replaces the network by exported programs for a split."""


@runtime_checkable
class ExportsHF(Protocol):
    """A model that transformers has too: `lmrecipes export --format hf`."""

    def export_hf(self, folder: Path, vocabulary: Any) -> list[Path]:
        """Writes folders that transformers loads, and returns them."""


@runtime_checkable
class ExportsWeights(Protocol):
    """A model whose exported weights can be checked: `lmrecipes export --format state_dict`."""

    def example(self) -> dict[str, Any]:
        """Synthetic keyword arguments of one call of the network."""


@runtime_checkable
class ChecksPrecision(Protocol):
    """A model that some precisions break on any hardware."""

    @staticmethod
    def check_precision(precision: str) -> None:
        """Refuses such a precision.

        Raises:
            ValueError: with the reason and what works.
        """


@runtime_checkable
class Rehearses(Protocol):
    """A model whose smallest sizes need more than those of `models.common.tiny_config`."""

    @staticmethod
    def tiny_config(config: dict[str, Any]) -> dict[str, Any]:
        """The configuration at toy size, for `lmrecipes rehearse`."""


@runtime_checkable
class ReadsBatchPlan(Protocol):
    """A model or DataModule that declares which optional fields of a BatchPlan it reads; others are refused."""

    batch_fields: frozenset[str]
    """Some of seq_len, mem_len, clamp_len, same_length, target_len."""


@runtime_checkable
class TypesBatches(Protocol):
    """A model or DataModule that declares its type of batch; a model and data of different types are refused."""

    batch_type: type
    """One of the types in `lmrecipes.batches`."""
