"""Sources of running text, and local text files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmrecipes.data.corpora.block_reader import text_blocks
from lmrecipes.data.corpora.folder_files import FolderFiles, counted, files_in, no_data, omissions
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

    def listing(self, lines: Mapping[str, int]) -> str | None:
        """What is read of a folder, and what is passed over; None for text that is in no folder.

        Args:
            lines: how many a split has, where that is known.
        """
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
                    if candidate.is_file() and no_data(candidate.name) is None:
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

    def listing(self, lines: Mapping[str, int]) -> str:
        """The file of each split, and the other files."""
        names = {path.name for path in self.files.values()}
        others = files_in(self.folder, names.__contains__, "not the text of a split")
        return split_listing(self.folder, {split: [path] for split, path in self.files.items()}, others, lines)

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


def split_listing(
    folder: Path, files: Mapping[str, Sequence[Path]], others: FolderFiles, lines: Mapping[str, int]
) -> str:
    """The files of each split of a folder, with their lines if they are counted, and the files that are in none."""
    parts = []
    for split, paths in files.items():
        if paths:
            n_lines = f", {counted(lines[split], 'line')}" if split in lines else ""
            what = paths[0].name if len(paths) == 1 else counted(len(paths), "file")
            parts.append(f"{split} {what}{n_lines}")
    return f"{folder}: {'; '.join(parts)}{omissions(others.passed_over)}"


def _file_blocks(path: Path) -> Iterator[bytes]:
    with reporting_damage(path), open_unpacked(path) as file:
        yield from text_blocks(file)
