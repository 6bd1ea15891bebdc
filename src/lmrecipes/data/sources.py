"""Where the text of a corpus comes from: local files, a plain-file repository, or Python itself."""

from __future__ import annotations

import gzip
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmrecipes.data.blocks import text_blocks

SPLITS = ("train", "val", "test")
_NAMES = {"train": ("train",), "val": ("valid", "val", "validation", "dev"), "test": ("test",)}


class Source(ABC):
    """The splits of a corpus as text."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What identifies the text: prepared data is used again only for an equal description."""

    @abstractmethod
    def has(self, split: str) -> bool:
        """Whether there is such a split."""

    @abstractmethod
    def blocks(self, split: str) -> Iterator[str]:
        """The text of a split, in bounded blocks: whole lines, or parts of a line too long for a block."""

    def size(self, split: str) -> int | None:
        """Bytes of a split, for showing progress, where known."""
        return None


class Folder(Source):
    """A local folder with a text file per split, such as train.txt, valid.txt and test.txt."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not folder.is_dir():
            raise ValueError(f"data.path {folder} is no folder; give one with train.txt, valid.txt and test.txt")
        self.files = {split: path for split in SPLITS if (path := self._find(split)) is not None}

    def _find(self, split: str) -> Path | None:
        endings = ("txt", "tokens", "txt.gz", "raw", "bpe")
        for name in _NAMES[split]:
            for ending in endings:
                for candidate in (
                    self.folder / f"{name}.{ending}",
                    *sorted(self.folder.glob(f"*.{name}.{ending}")),
                ):
                    if candidate.is_file():
                        return candidate
        return None

    def require(self, split: str) -> Path:
        """The file of a split.

        Raises:
            ValueError: if there is none, with the accepted names.
        """
        if split not in self.files:
            accepted = ", ".join(f"{name}.txt" for name in _NAMES[split])
            there = ", ".join(sorted(p.name for p in self.folder.iterdir())[:8]) or "nothing"
            raise ValueError(
                f"data.path {self.folder} has no {split} text: {accepted} (or .tokens, .txt.gz); found {there}"
            )
        return self.files[split]

    def describe(self) -> dict[str, Any]:
        """Names, sizes and times of the files."""
        stats = {split: (path, path.stat()) for split, path in self.files.items()}
        return {split: [str(path.resolve()), s.st_size, s.st_mtime_ns] for split, (path, s) in stats.items()}

    def has(self, split: str) -> bool:
        """Whether the split has a file."""
        return split in self.files

    def size(self, split: str) -> int | None:
        """Bytes of the file (compressed, if it is)."""
        return self.require(split).stat().st_size

    def blocks(self, split: str) -> Iterator[str]:
        """Text of the file.

        Raises:
            ValueError: for an empty file, or text that is not UTF-8, with file and line.
        """
        path = self.require(split)
        opener = gzip.open if path.suffix == ".gz" else open
        line, empty = 1, True
        with opener(path, "rb") as file:
            for block in text_blocks(file):
                try:
                    yield block.decode("utf-8")
                except UnicodeDecodeError as error:
                    line += block.count(b"\n", 0, error.start)
                    raise ValueError(f"{path}:{line} is not UTF-8 text: {error.reason}") from None
                line, empty = line + block.count(b"\n"), False
        if empty:
            raise ValueError(f"{path} is empty")


class HubRepository(Source):
    """Plain files (parquet) of a Hugging Face dataset repository, one line of text per row."""

    def __init__(self, repository: str, config: str, column: str = "text", revision: str = "main") -> None:
        self.repository, self.config, self.column, self.revision = repository, config, column, revision

    def describe(self) -> dict[str, Any]:
        """Repository, configuration and revision."""
        return {"repository": self.repository, "config": self.config, "revision": self.revision}

    def has(self, split: str) -> bool:
        """All three splits are there."""
        return True

    def blocks(self, split: str) -> Iterator[str]:
        """Text of the split's rows.

        Raises:
            ValueError: if the repository cannot be reached.
        """
        from datasets import load_dataset

        name = {"val": "validation"}.get(split, split)
        try:
            rows = load_dataset(self.repository, self.config, split=name, revision=self.revision)
        except Exception as error:
            raise ValueError(
                f"{self.repository} ({self.config}) could not be loaded from the Hugging Face hub "
                f"({type(error).__name__}); run `lmrecipes prepare` where there is a network, or give local files "
                f"with --data.path FOLDER"
            ) from error
        for batch in rows.iter(batch_size=500):
            lines = batch[self.column]
            yield "".join(line if line.endswith("\n") else line + "\n" for line in lines)
