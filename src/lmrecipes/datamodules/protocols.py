"""Protocols that commands require of a LightningDataModule; a corpus implements those that apply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from lmrecipes.data.tasks.squad.files import Question
from lmrecipes.data.tokenizers.base import Vocabulary


@runtime_checkable
class Prepares(Protocol):
    """Data that is tokenized and cached before training: `lmrecipes prepare`."""

    def prepare(self, progress: bool = True) -> None:
        """Prepares everything unless that was done; `progress` shows a bar on a terminal."""

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary, which is kept with a run."""


@runtime_checkable
class ListsFiles(Protocol):
    """Data of local folders, in which there may be files that are not read: `lmrecipes prepare` and `doctor`."""

    def listing(self) -> list[str]:
        """Lines that say which files are read, with their numbers, and which are passed over, with the reason.

        Raises:
            ValueError: if there is nothing to read.
        """


@runtime_checkable
class PreparesInShards(Protocol):
    """Data that several processes or jobs prepare together: `lmrecipes prepare --shard 1/8 --workers 16`."""

    takes_shares: ClassVar[bool]
    """True: `prepare` takes `workers`, a number of processes, and `share`, a `data.prepared.shards.Share`."""

    @property
    def ready(self) -> bool:
        """Whether all shares are prepared."""


@runtime_checkable
class EvaluatesWith(Protocol):
    """Data that is read with the vocabulary of the run that is evaluated."""

    def evaluate_with(self, vocabulary: Vocabulary, split: str) -> None:
        """From now on reads this split with a trained model's vocabulary.

        Raises:
            ValueError: if the vocabulary is one of another kind.
        """


@runtime_checkable
class Overfits(Protocol):
    """Data that can repeat its first batches: `--trainer.overfit_batches 2`."""

    overfit_batches: int
    """Optimizer steps' batches that make an epoch; 0: all."""


@runtime_checkable
class WarmsUp(Protocol):
    """Data whose evaluations begin with batches that are not scored."""

    def warm_up_batches(self, split: str) -> int:
        """Their number, for a split (val or test)."""


@runtime_checkable
class AnswersQuestions(Protocol):
    """Data that takes questions from the command line: `lmrecipes predict --question`."""

    on_malformed: Any
    """What to do about malformed questions of a file."""

    def ask(self, questions: Sequence[Question]) -> None:
        """Makes these questions the split that is predicted.

        Raises:
            ValueError: for none, or an empty one.
        """

    def may_lack(self, split: str) -> bool:
        """Whether questions of a split may have no answer."""


@runtime_checkable
class Rehearses(Protocol):
    """Data that can be made small for `lmrecipes rehearse`."""

    tiny_lengths: ClassVar[Mapping[str, int]]
    """The longest that the lengths of `batch:` may be, by their names."""

    @staticmethod
    def tiny_data(settings: Mapping[str, Any], text: Path) -> dict[str, Any]:
        """Settings that read the small text in a folder instead of the recipe's own."""

    def write_synthetic(self, folder: Path) -> str:
        """Writes such a text to a folder; returns what it is, for the rehearsal's table."""
