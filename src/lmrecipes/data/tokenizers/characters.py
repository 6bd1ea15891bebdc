"""Characters or bytes as tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmrecipes.data.tokenizers.base import Ids, Vocabulary


class CharacterVocabulary(Vocabulary):
    """Characters, or bytes, of a text, sorted by frequency."""

    spells = True

    def __init__(self, symbols: Sequence[int], *, kind: str = "char") -> None:
        self.kind = kind
        self.symbols = np.asarray(symbols, dtype=np.uint32)
        self._ids = np.full(int(self.symbols.max()) + 1 if len(symbols) else 1, -1, dtype=np.int64)
        self._ids[self.symbols] = np.arange(len(symbols))

    @property
    def size(self) -> int:
        """Different symbols."""
        return len(self.symbols)

    def encode_block(self, text: str) -> Ids:
        """Ids of text.

        Raises:
            ValueError: naming the first unknown character.
        """
        points = code_points(text, self.kind)
        known = points < len(self._ids)
        ids = np.where(known, self._ids[np.where(known, points, 0)], -1)
        if len(ids) and ids.min() < 0:
            raise ValueError(
                f"the character {chr(int(points[ids.argmin()]))!r} is not in the vocabulary of {self.size}"
            )
        return ids.astype(np.uint32)

    def encode(self, text: str) -> list[int]:
        """Ids of typed text."""
        return [int(i) for i in self.encode_block(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids."""
        points = [int(self.symbols[i]) for i in ids]
        return bytes(points).decode("utf-8", "replace") if self.kind == "byte" else "".join(map(chr, points))

    def _content(self) -> dict[str, Any]:
        return {"symbols": self.symbols.tolist()}


def code_points(text: str, kind: str) -> NDArray[Any]:
    """Characters or bytes of a text as numbers."""
    if kind == "byte":
        return np.frombuffer(text.encode("utf-8"), dtype=np.uint8)
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
