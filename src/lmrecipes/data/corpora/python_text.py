"""The documentation that comes with Python as a text corpus."""

from __future__ import annotations

import sysconfig
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lmrecipes.data.corpora.text_source import SPLITS, Source
from lmrecipes.data.embedded.python_docs import python_documents
from lmrecipes.data.tokenizers.wikitext import split_words


class PythonText(Source):
    """Prose from the running Python, split into words; each document belongs to one split."""

    def __init__(self) -> None:
        self.folder = Path(sysconfig.get_paths()["stdlib"])
        self._text: dict[str, list[str]] = {}

    def describe(self) -> dict[str, Any]:
        """The Python that it comes from."""
        return {"python": sysconfig.get_python_version(), "stdlib": str(self.folder)}

    def has(self, split: str) -> bool:
        """All three splits exist."""
        return True

    def blocks(self, split: str) -> Iterator[str]:
        """Text of the documents that belong to the split: one in ten to val, one in ten to test."""
        if not self._text:
            self._text = {split: [] for split in SPLITS}
            for name, paragraphs in self.documents():
                bucket = zlib.crc32(name.encode()) % 10
                text = "".join(f"{' '.join(split_words(paragraph))}\n" for paragraph in paragraphs)
                self._text[SPLITS[{0: 1, 1: 2}.get(bucket, 0)]].append(text)
        yield from self._text[split]

    def documents(self) -> Sequence[tuple[str, list[str]]]:
        """Name and paragraphs of every help topic and module."""
        return python_documents(self.folder)
