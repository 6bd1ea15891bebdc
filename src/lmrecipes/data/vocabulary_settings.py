"""Which vocabulary a corpus gets: one that is read, or one that is learned from it."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from lmrecipes.data.vocabularies import Vocabulary

V = TypeVar("V", bound=Vocabulary)


@dataclass(frozen=True, kw_only=True)
class VocabularySettings(ABC, Generic[V]):
    """Where a vocabulary comes from."""

    group: ClassVar[str]
    """What the settings are called in a recipe."""
    fewest: ClassVar[int]
    """The smallest vocabulary that may be asked for."""

    name: str | None = None
    """What to read it from; left out, it is learned from the corpus."""
    vocab_size: int
    """Tokens to learn at most."""
    sample_mb: int = 100
    """Text to learn from at most, in millions of characters."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot be.

        Raises:
            ValueError: naming the field and what would work.
        """
        for field, least in (("vocab_size", self.fewest), ("sample_mb", 1)):
            if getattr(self, field) < least:
                raise ValueError(f"data.{self.group}.{field} is {getattr(self, field)}; it must be {least} or more")

    def describe(self) -> dict[str, Any]:
        """What identifies the vocabulary: the settings, and the content of the files that they name."""
        return {**asdict(self), "content": self.content()}

    def content(self) -> str | None:
        """A hash of the files that it is read from; None if they are on the hub, gone, or there are none."""
        named = [] if self.name is None else self.files(Path(self.name).expanduser())
        files = [path for path in named if path.is_file()]
        if not files:
            return None
        return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files)).hexdigest()[:16]

    def make(self, sample: Callable[[int], Iterable[str]]) -> V:
        """The vocabulary.

        Args:
            sample: gives texts to learn from, of so many characters at most.

        Raises:
            ValueError: if it cannot be read or learned.
        """
        if self.name is not None:
            return self.read(self.name)
        texts = list(sample(self.sample_mb * 1_000_000))
        if not texts:
            raise ValueError("data.sources have no text to learn a vocabulary from")
        return self.learn(texts)

    @staticmethod
    @abstractmethod
    def files(path: Path) -> list[Path]:
        """What a vocabulary may be read from, the path itself first, then the best."""

    @abstractmethod
    def read(self, name: str) -> V:
        """The vocabulary of a file, a folder or a name on the hub."""

    @abstractmethod
    def learn(self, texts: Sequence[str]) -> V:
        """A vocabulary of these texts."""
