"""Where prepared corpora are stored, and finding one whose text no longer exists."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Protocol

from lmrecipes.data.prepared.corpus import Described, Prepared, find_prepared
from lmrecipes.runtime.atomic_write import write_text
from lmrecipes.runtime.disk_space import explain, refusal
from lmrecipes.runtime.path_names import is_plain

_VERSION = 2


class Vocabularies(Described, Protocol):
    """Which vocabulary to make: `Tokenizing`, `WordPieceSettings` or `SentencePieceSettings`."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def content(self) -> str | None:
        """A hash of the files that it names; None if there are none."""


def folder_for(source: Described, tokenizing: Vocabularies, name: str, cache_dir: Path) -> Path:
    """The cache folder of a corpus, keyed by its text, tokenization and tokenizer files."""
    return cache_dir / f"{name}-{_digest(source.describe(), tokenizing.describe())}"


def remember(prepared: Prepared, path: Path | None, tokenizing: Vocabularies, name: str) -> None:
    """Records which corpus these settings led to, if the cache is writable."""
    cache_dir = prepared.folder.parent
    note = _note(path, tokenizing, name, cache_dir)
    if note.is_file() and note.read_text() == prepared.folder.name:
        return
    with suppress(OSError):
        write_text(note, prepared.folder.name)


def recall(
    source: Described | None, path: Path | None, tokenizing: Vocabularies, name: str, cache_dir: Path
) -> Prepared | None:
    """The corpus last prepared with these settings, if its text and tokenizer have not changed since.

    Args:
        source: the text; None if it no longer exists.
        path: of the text.
        tokenizing: its vocabulary, whose files may no longer exist.
        name: of the corpus.
        cache_dir: where prepared data is stored.
    """
    note = _note(path, tokenizing, name, cache_dir)
    folder = note.read_text(encoding="utf-8", errors="replace") if note.is_file() else ""
    prepared = find_prepared(cache_dir / folder) if is_plain(folder) else None
    if prepared is None:
        return None
    same_text = source is None or prepared.manifest["source"] == source.describe()
    content = tokenizing.content()
    same_tokenizer = content is None or prepared.manifest["tokenizing"].get("content") == content
    return prepared if same_text and same_tokenizer else None


def _note(path: Path | None, tokenizing: Vocabularies, name: str, cache_dir: Path) -> Path:
    location = None if path is None else str(path.absolute())
    return cache_dir / f"{name}-{_digest(location, asdict(tokenizing))}.latest"


def _digest(*parts: Any) -> str:
    return short_hash(json.dumps([_VERSION, *parts], sort_keys=True))


def short_hash(text: str) -> str:
    """12 hexadecimal digits that name what the text describes."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


_UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.ENAMETOOLONG}


def cache_folder(path: str | None) -> Path:
    """The cache folder: `path`, else $LMRECIPES_CACHE, else ~/.cache/lmrecipes."""
    return Path(path or os.environ.get("LMRECIPES_CACHE", "~/.cache/lmrecipes")).expanduser()


@contextmanager
def writing_to(cache_dir: Path) -> Iterator[None]:
    """Reports a cache that cannot be written to.

    Raises:
        ValueError: naming the setting, in place of the OSError.
    """
    try:
        yield
    except OSError as error:
        if (refused := refusal(error)) is not None:
            raise ValueError(
                f"data.cache_dir {cache_dir} was not written to: {explain(refused, cache_dir)}; make room, or name "
                f"another folder"
            ) from error
        # A folder that cannot be made, such as one in /proc, is said not to exist.
        unwritable = error.errno in _UNWRITABLE or (error.errno == errno.ENOENT and not cache_dir.is_dir())
        if not unwritable or not Path(str(error.filename)).is_relative_to(cache_dir):
            raise
        raise ValueError(
            f"data.cache_dir {cache_dir} cannot be written to ({error.strerror}); name another folder"
        ) from error
