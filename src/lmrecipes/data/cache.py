"""Where prepared corpora are kept, and finding one whose text is no longer there."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Protocol

from lmrecipes.atomic_write import write_text
from lmrecipes.data.prepared import Prepared, find_prepared

_VERSION = 2


class Described(Protocol):
    """Text: `Source` or `Corpus`."""

    def describe(self) -> dict[str, Any]:
        """What identifies the text."""


class Vocabularies(Protocol):
    """Which vocabulary to make: `Tokenizing`, `WordPieceSettings` or `SentencePieceSettings`."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def describe(self) -> dict[str, Any]:
        """What identifies the tokens."""

    def content(self) -> str | None:
        """A hash of the files that it names; None if there are none."""


def folder_for(source: Described, tokenizing: Vocabularies, name: str, cache_dir: Path) -> Path:
    """Where the corpus goes, tokenized in this way: other text, tokenizing or tokenizer file, other folder."""
    return cache_dir / f"{name}-{_digest(source.describe(), tokenizing.describe())}"


def remember(prepared: Prepared, path: Path | None, tokenizing: Vocabularies, name: str) -> None:
    """Notes which corpus these settings led to, where the cache can be written to."""
    cache_dir = prepared.folder.parent
    note = _note(path, tokenizing, name, cache_dir)
    if note.is_file() and note.read_text() == prepared.folder.name:
        return
    with suppress(OSError):
        write_text(note, prepared.folder.name)


def recall(
    source: Described | None, path: Path | None, tokenizing: Vocabularies, name: str, cache_dir: Path
) -> Prepared | None:
    """The corpus that these settings led to last, if what is there of its text and tokenizer is still the same.

    Args:
        source: the text; None if it is gone.
        path: where it was.
        tokenizing: its vocabulary; files that it names may be gone.
        name: of the corpus.
        cache_dir: where prepared data is.
    """
    note = _note(path, tokenizing, name, cache_dir)
    prepared = find_prepared(cache_dir / note.read_text()) if note.is_file() else None
    if prepared is None:
        return None
    same_text = source is None or prepared.manifest["source"] == source.describe()
    content = tokenizing.content()
    same_tokenizer = content is None or prepared.manifest["tokenizing"].get("content") == content
    return prepared if same_text and same_tokenizer else None


def _note(path: Path | None, tokenizing: Vocabularies, name: str, cache_dir: Path) -> Path:
    where = None if path is None else str(path.absolute())
    return cache_dir / f"{name}-{_digest(where, asdict(tokenizing))}.latest"


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps([_VERSION, *parts], sort_keys=True).encode()).hexdigest()[:12]
