"""Vocabularies: text to token ids and back, saved in a folder of their own so that scoring needs no corpus."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmrecipes.runtime.atomic_write import write_text

Ids = NDArray[np.unsignedinteger[Any]]
FILE = "vocabulary.json"


class Vocabulary(ABC):
    """The tokens of a model."""

    kind: str
    spells: bool
    """Whether every text can be encoded without loss."""
    unknown: int = -1
    """The token for everything else; -1 if there is none."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Different tokens."""

    @abstractmethod
    def encode_block(self, text: str) -> Ids:
        """Ids of a block of a corpus: whole lines, each with its newline, or a part of a line."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of typed text, after whatever precedes a line in the corpus."""

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids."""

    @abstractmethod
    def _content(self) -> dict[str, Any]: ...

    def save(self, folder: Path) -> None:
        """Writes the vocabulary to a folder, atomically."""
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"kind": self.kind, **self._content()}, ensure_ascii=False)
        write_text(folder / FILE, text)

    def digest(self) -> str:
        """A hash that changes with the vocabulary."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        return hashlib.sha256(json.dumps(self._content(), ensure_ascii=False).encode()).hexdigest()[:16]
