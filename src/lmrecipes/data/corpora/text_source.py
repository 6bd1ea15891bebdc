"""Sources of running text, and local text files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmrecipes.data.corpora.block_reader import text_blocks
from lmrecipes.runtime.open_file import open_unpacked, reporting_damage

SPLITS = ("train", "val", "test")
NAMES = {"train": ("train",), "val": ("valid", "val", "validation", "dev"), "test": ("test",)}


class Source(ABC):
    """The splits of a corpus as text."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What identifies the text: prepared data is reused only for an equal description."""

    @abstractmethod
    def has(self, split: str) -> bool:
        """Whether the split exists."""

    def require(self, split: str) -> None:
        """Checks that a split exists.

        Raises:
            ValueError: if not.
        """
        if not self.has(split):
            raise ValueError(f"{self.place(split)} is missing")

    @abstractmethod
    def blocks(self, split: str) -> Iterator[str]:
        """The text of a split, in bounded blocks: whole lines, or parts of a line too long for a block."""

    def size(self, split: str) -> int | None:
        """Bytes of a split, if known, to show progress."""
        return None

    def place(self, split: str) -> str:
        """Name of a split's text in messages."""
        return f"{split} text"

    def resolved(self) -> dict[str, Any]:
        """Facts about the text known only after reading, for the manifest."""
        return {}


class Folder(Source):
    """A local folder with a text file per split, such as train.txt, valid.txt and test.txt."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not folder.is_dir():
            raise ValueError(f"data.path {folder} is not a folder; give one with train.txt, valid.txt and test.txt")
        self.files = {split: path for split in SPLITS if (path := self._find(split)) is not None}

    def _find(self, split: str) -> Path | None:
        endings = ("txt", "tokens", "txt.gz", "raw", "bpe")
        for name in NAMES[split]:
            for ending in endings:
                for candidate in (
                    self.folder / f"{name}.{ending}",
                    *sorted(self.folder.glob(f"*.{name}.{ending}")),
                ):
                    if candidate.is_file():
                        return candidate
        return None

    def require(self, split: str) -> None:
        """Checks that a split has a file.

        Raises:
            ValueError: if not, with the accepted names.
        """
        if split not in self.files:
            accepted = ", ".join(f"{name}.txt" for name in NAMES[split])
            existing = ", ".join(sorted(p.name for p in self.folder.iterdir())[:8]) or "nothing"
            raise ValueError(
                f"data.path {self.folder} has no {split} text (looked for {accepted}, also as .txt.gz, .tokens, .raw, "
                f".bpe; or all splits as .parquet, .jsonl, .json or .csv); found {existing}"
            )

    def describe(self) -> dict[str, Any]:
        """Names, sizes and times of the files."""
        stats = {split: (path, path.stat()) for split, path in self.files.items()}
        return {split: [str(path.resolve()), s.st_size, s.st_mtime_ns] for split, (path, s) in stats.items()}

    def place(self, split: str) -> str:
        """The file's path."""
        return str(self.files[split])

    def has(self, split: str) -> bool:
        """Whether the split has a file."""
        return split in self.files

    def size(self, split: str) -> int | None:
        """Bytes of the file (compressed, if it is)."""
        return self.files[split].stat().st_size

    def blocks(self, split: str) -> Iterator[str]:
        """Text of the file.

        Raises:
            ValueError: for a damaged file, or text that is not UTF-8, with file and line.
        """
        self.require(split)
        path = self.files[split]
        line, first = 1, True
        for block in _file_blocks(path):
            try:
                # Skip a byte order mark.
                yield block.decode("utf-8-sig" if first else "utf-8")
            except UnicodeDecodeError as error:
                line += block.count(b"\n", 0, error.start)
                raise ValueError(f"{path}:{line} is not UTF-8 text: {error.reason}") from None
            line, first = line + block.count(b"\n"), False


def _file_blocks(path: Path) -> Iterator[bytes]:
    with reporting_damage(path), open_unpacked(path) as file:
        yield from text_blocks(file)
