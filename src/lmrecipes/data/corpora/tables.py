"""Text from tables with a text per row: a repository on the Hugging Face hub, or a folder of local files."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from lmrecipes.data.corpora.folder_files import files_in
from lmrecipes.data.corpora.hub import newest_commit, not_loaded
from lmrecipes.data.corpora.rows import READER_VERSION, TABLES, Row, read_rows, text_of
from lmrecipes.data.corpora.text_source import NAMES, SPLITS, Source, split_listing
from lmrecipes.runtime.open_file import PACKED, unpacked_suffix

_ROWS = 500
# What `datasets` accepts in names of files, too.
_WORDS = {**NAMES, "train": ("train", "training"), "test": ("test", "testing", "eval", "evaluation")}


class HubRepository(Source):
    """A repository on the hub, whose configurations and splits the `datasets` package finds; one text per row."""

    def __init__(
        self, repository: str, config: str | None = None, column: str = "text", revision: str | None = None
    ) -> None:
        """Names the data set; nothing is downloaded yet.

        Args:
            repository: name on the hub, such as Salesforce/wikitext.
            config: name of one of the repository's data sets.
            column: that holds the text.
            revision: branch, tag or commit; left out, the newest.
        """
        self.repository, self.config, self.column, self.revision = repository, config, column, revision
        self._commit: str | None = None
        self._splits: Any = None

    def describe(self) -> dict[str, Any]:
        """Repository, configuration and the requested revision."""
        return {"repository": self.repository, "config": self.config, "revision": self.revision}

    def resolved(self) -> dict[str, Any]:
        """The commit of the text, if the hub could be reached."""
        return {"commit": self._commit}

    def place(self, split: str) -> str:
        """Repository and split."""
        return f"{self.repository} {split}"

    def has(self, split: str) -> bool:
        """Whether the repository has the split."""
        return _row_split(split) in self._load()

    def require(self, split: str) -> None:
        """Checks that a split exists.

        Raises:
            ValueError: if not, with the existing ones.
        """
        if not self.has(split):
            raise ValueError(f"{self.repository} has no {_row_split(split)} split; it has {', '.join(self._load())}")

    def blocks(self, split: str) -> Iterator[str]:
        """Text of the split's rows.

        Raises:
            ValueError: if the repository cannot be loaded, or has no such split or column, or a row is not text.
        """
        self.require(split)
        rows, column = self._load()[_row_split(split)], self.column
        if column not in rows.column_names:
            raise ValueError(f"{self.repository} has no column {column!r}; it has {', '.join(rows.column_names)}")
        texts = (text for batch in rows.iter(batch_size=_ROWS) for text in batch[column])
        yield from _text_blocks(self.place(split), enumerate(({column: text} for text in texts), start=1), column)

    def _load(self) -> Any:
        if self._splits is None:
            from datasets import disable_progress_bars, load_dataset

            if not sys.stderr.isatty():
                disable_progress_bars()
            self._commit = newest_commit(self.repository, self.revision)
            try:
                self._splits = load_dataset(self.repository, self.config, revision=self._commit or self.revision)
            except Exception as error:
                raise ValueError(
                    not_loaded(self.repository, self.config, self.revision, error, "--data.path FOLDER")
                ) from error
        return self._splits


class TableFolder(Source):
    """A local folder with tables of each split: train-*.parquet, validation.jsonl, test.csv.gz and so on."""

    def __init__(self, folder: Path, column: str = "text") -> None:
        self.folder, self.column = folder, column
        self._all = _tables(folder)
        self.files = {split: [file for file in self._all if _split_of(file) == split] for split in SPLITS}
        if not any(self.files.values()):
            self.files["train"] = self._all

    def listing(self, lines: Mapping[str, int]) -> str:
        """The tables of each split, and the other files."""
        names = {file.name for files in self.files.values() for file in files}
        others = files_in(self.folder, names.__contains__, "not the table of a split")
        return split_listing(self.folder, self.files, others, lines)

    @classmethod
    def fits(cls, folder: Path) -> bool:
        """Whether a folder holds tables."""
        return bool(_tables(folder))

    def place(self, split: str) -> str:
        """The split's file, if it is one, else its files."""
        files = self.files[split]
        return str(files[0]) if len(files) == 1 else f"{self.folder}/{_row_split(split)}-*"

    def has(self, split: str) -> bool:
        """Whether the split has files."""
        return bool(self.files[split])

    def require(self, split: str) -> None:
        """Checks that a split has files.

        Raises:
            ValueError: if not, with the splits that do.
        """
        if not self.has(split):
            existing = ", ".join(_row_split(name) for name in SPLITS if self.has(name))
            raise ValueError(f"{self.folder} has no {_row_split(split)} split; it has {existing or 'none'}")

    def describe(self) -> dict[str, Any]:
        """Column, version of the reader; names, sizes and times of the files."""
        stats = {file.name: file.stat() for file in self._all}
        return {
            "reader": READER_VERSION,
            "folder": str(self.folder.resolve()),
            "column": self.column,
            "files": {name: [s.st_size, s.st_mtime_ns] for name, s in stats.items()},
        }

    def blocks(self, split: str) -> Iterator[str]:
        """Text of the split's rows.

        Raises:
            ValueError: if a file cannot be read, or a row has no text.
        """
        self.require(split)
        for file in self.files[split]:
            yield from _text_blocks(str(file), read_rows(file, columns=[self.column]), self.column)


def _tables(folder: Path) -> list[Path]:
    return list(files_in(folder, lambda name: unpacked_suffix(Path(name)) in TABLES, "not a table").read)


def _split_of(file: Path) -> str | None:
    """The split that a word of the file's name, before its suffixes, stands for."""
    stem = file.name.removesuffix(file.suffix if file.suffix in PACKED else "").removesuffix(unpacked_suffix(file))
    words = re.split(r"[^a-z]+", stem.lower())
    return next((split for split in SPLITS if any(name in words for name in _WORDS[split])), None)


def _text_blocks(location: str, rows: Iterable[Row], column: str) -> Iterator[str]:
    """A line of text for every row, in blocks of _ROWS rows."""
    lines = _text_lines(location, rows, column)
    while block := "".join(islice(lines, _ROWS)):
        yield block


def _text_lines(location: str, rows: Iterable[Row], column: str) -> Iterator[str]:
    for number, row in rows:
        try:
            line = text_of(row, column)
        except ValueError as error:
            raise ValueError(f"{location}:{number} {error}") from None
        yield line if line.endswith("\n") else line + "\n"


def _row_split(split: str) -> str:
    return {"val": "validation"}.get(split, split)
