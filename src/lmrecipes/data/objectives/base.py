"""The interface of a training objective on documents: from documents to examples to batches."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lmrecipes.batches import BatchPlan
from lmrecipes.data.prepared.corpus import Prepared
from lmrecipes.data.prepared.examples import Examples
from lmrecipes.data.tokenizers.base import Vocabulary
from lmrecipes.trainer_state import DataRank

Make = Callable[[Sequence[str], random.Random], Iterable[tuple[Sequence[int], int]]]
"""From the paragraphs of a document and its randomness to examples: token ids, and where a second segment begins."""


@dataclass(frozen=True)
class PreparedSources:
    """The examples of all sources, with the settings for batching them."""

    prepared: Prepared
    names: Sequence[str]
    """Of the sources, in the order of their examples."""
    weights: Sequence[float]
    """Relative amount of each source."""
    batch: BatchPlan
    held_out: float
    """Share of the documents in each of validation and test."""
    seed: int

    def examples(self, split: str) -> Examples:
        """The examples of a split.

        Raises:
            ValueError: if there are none.
        """
        examples = Examples(self.prepared, split)
        if not len(examples):
            documents = sum(self.prepared.split(name)["documents"] for name in ("train", "val", "test"))
            raise ValueError(
                f"none of the corpus's {documents:,} documents is in {split}; change data.held_out, {self.held_out}"
            )
        return examples


class Objective(ABC):
    """A training objective on documents, such as masked or causal language modelling."""

    vocabulary_class: ClassVar[type[Vocabulary]]
    """Kind of vocabulary that documents are tokenized with."""
    batch_type: ClassVar[type]
    """Type of its batches, of `lmrecipes.batches`."""
    batch_fields: ClassVar[frozenset[str]]
    """Optional fields of the batch plan that are read."""

    @abstractmethod
    def example_len(self, batch: BatchPlan) -> int:
        """Maximum tokens of a prepared example; 0: documents are not cut.

        Raises:
            ValueError: for a length that is too short, naming the field.
        """

    @staticmethod
    @abstractmethod
    def maker(vocabulary: Any, example_len: int) -> Make:
        """Turns documents into examples; worker processes find it by the objective's class path."""

    def index(self, sources: PreparedSources, split: str) -> None:  # noqa: B027  (optional)
        """Stores whatever else batches of a split need beside the examples."""

    @abstractmethod
    def train_batches(self, sources: PreparedSources, data_rank: DataRank) -> Any:
        """A rank's micro-batches as a pure function of their number; there is no iterator state.

        Raises:
            ValueError: if batch and ranks do not divide, or there are too few examples; naming the field.
        """

    @abstractmethod
    def evaluation_batches(self, sources: PreparedSources, split: str, data_rank: DataRank) -> Any:
        """A rank's batches of a held-out split, always the same."""
