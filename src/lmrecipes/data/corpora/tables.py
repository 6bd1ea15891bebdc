"""Text from plain files (parquet, json, csv) with a text per row: a Hugging Face dataset repository or a folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmrecipes.data.corpora.hub import newest_commit, not_loaded
from lmrecipes.data.corpora.text_source import NAMES, Source

_ROWS = 500


class HubRepository(Source):
    """Plain files of a repository on the hub, one line of text per row."""

    def __init__(
        self, repository: str, config: str | None = None, column: str = "text", revision: str | None = None
    ) -> None:
        """Names the files; nothing is downloaded yet.

        Args:
            repository: name on the hub, such as Salesforce/wikitext.
            config: which of the repository's data sets.
            column: which column holds the text.
            revision: branch, tag or commit; left out, the newest.
        """
        self.repository, self.config, self.column, self.revision = repository, config, column, revision
        self._commit: str | None = None
        self._rows: Any = None

    def describe(self) -> dict[str, Any]:
        """Repository, configuration and the revision asked for."""
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
        """Insists on a split.

        Raises:
            ValueError: if there is none, with those that there are.
        """
        if not self.has(split):
            raise ValueError(f"{self.repository} has no {_row_split(split)} split; it has {', '.join(self._load())}")

    def blocks(self, split: str) -> Iterator[str]:
        """Text of the split's rows.

        Raises:
            ValueError: if the repository cannot be reached or read, has no such split or column, or no text in a row.
        """
        self.require(split)
        rows = self._load()[_row_split(split)]
        if self.column not in rows.column_names:
            raise ValueError(f"{self.repository} has no column {self.column}; it has {', '.join(rows.column_names)}")
        row = 1
        for batch in rows.iter(batch_size=_ROWS):
            lines = [line or "" for line in batch[self.column]]
            for number, line in enumerate(lines, start=row):
                if not isinstance(line, str):
                    raise ValueError(f"{self.place(split)}:{number}: {self.column} is {line!r}, which is no text")
            row += len(lines)
            yield "".join(line if line.endswith("\n") else line + "\n" for line in lines)

    def _load(self) -> Any:
        if self._rows is None:
            from datasets import disable_progress_bars, load_dataset

            if not sys.stderr.isatty():
                disable_progress_bars()
            self._commit = self._newest_commit()
            try:
                self._rows = load_dataset(self.repository, self.config, revision=self._commit or self.revision)
            except Exception as error:
                raise ValueError(self._failed(error)) from error
        return self._rows

    def _newest_commit(self) -> str | None:
        return newest_commit(self.repository, self.revision)

    def _failed(self, error: Exception) -> str:
        return not_loaded(self.repository, self.config, self.revision, error, "--data.path FOLDER")


class TableFolder(HubRepository):
    """A local folder laid out like a hub repository: train-*.parquet, validation.jsonl and so on."""

    endings = ("parquet", "json", "jsonl", "csv")

    def __init__(self, folder: Path, column: str = "text") -> None:
        super().__init__(str(folder), column=column)
        self.folder = folder

    @classmethod
    def fits(cls, folder: Path) -> bool:
        """Whether a folder holds such files."""
        return any(True for ending in cls.endings for _ in folder.glob(f"*.{ending}"))

    def place(self, split: str) -> str:
        """The split's file, if it is one, else its files."""
        found = [p for ending in self.endings for name in NAMES[split] for p in self.folder.glob(f"*{name}*.{ending}")]
        return str(found[0]) if len(found) == 1 else f"{self.folder}/{_row_split(split)}-*"

    def describe(self) -> dict[str, Any]:
        """Column; names, sizes and times of the files."""
        files = sorted(path for ending in self.endings for path in self.folder.glob(f"*.{ending}"))
        stats = {path.name: path.stat() for path in files}
        return {
            "folder": str(self.folder.resolve()),
            "column": self.column,
            "files": {name: [s.st_size, s.st_mtime_ns] for name, s in stats.items()},
        }

    def resolved(self) -> dict[str, Any]:
        """Nothing: local files have no commit."""
        return {}

    def _newest_commit(self) -> None:
        return None

    def _failed(self, error: Exception) -> str:
        cause = str(error.__cause__ or error).split("\n")[0][:160]
        return f"data.path {self.folder} could not be read as {', '.join(self.endings)} files: {cause}"


def _row_split(split: str) -> str:
    return {"val": "validation"}.get(split, split)
