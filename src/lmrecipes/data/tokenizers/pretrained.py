"""Loading an existing vocabulary: a file, a folder of transformers or of a run, or a name on the hub."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from lmrecipes.data.tokenizers.base import FILE, Vocabulary
from lmrecipes.data.tokenizers.loading import load_vocabulary
from lmrecipes.runtime.open_file import read_text

TOKENIZER = "tokenizer.json"
# A byte order mark, and settings of a tokenizer that had no effect, or one that they should not have.
_READ_OTHERWISE = re.compile(
    rb'\A\xef\xbb\xbf|"(?:truncation|padding)"\s*:\s*\{|"(?:tokenize|handle)_chinese_chars"\s*:\s*false'
)
V = TypeVar("V", bound=Vocabulary)


@dataclass(frozen=True, kw_only=True)
class Pretrained(Generic[V]):
    """How vocabularies of one kind are loaded."""

    label: str
    """Their name in messages, such as WordPiece."""
    kind: type[V]
    """Their class."""
    names: Sequence[str]
    """Files of a folder by preference, `tokenizer.json` among them."""
    of_tokenizer: Callable[[str, Path | None], V]
    """Creates one from the text of a tokenizer.json, and the folder that was named, whose other files then apply."""
    of_file: Callable[[Path, Path | None], V]
    """Reads one from another file, likewise."""
    from_hub: Sequence[str] = ()
    """Files that are read from the hub as they are; without them, what transformers makes of its files is read."""

    def load(self, name: str) -> V:
        """A vocabulary by file, folder or hub name.

        Raises:
            ValueError: if it does not exist or cannot be read.
        """
        path = Path(name).expanduser()
        if not path.exists():
            downloaded = next(filter(None, (_download(name, file) for file in self.from_hub)), None)
            if downloaded is not None:
                return self._checked(lambda: self.of_file(downloaded, None), name)
            return self._checked(lambda: self.of_tokenizer(self._on_hub(name), None), name)
        file = next((file for file in _files(path, (FILE, *self.names)) if file.is_file()), None)
        if file is None:
            raise ValueError(f"{path} has no vocabulary: no {', '.join(self.names)} or {FILE}")
        if file.name == FILE:
            return self._of_run(file.parent)
        folder = None if file == path else path
        if file.suffix == ".json" and (file.name == TOKENIZER or file.name not in self.names):
            return self._checked(lambda: self.of_tokenizer(read_text(file), folder), str(file))
        return self._checked(lambda: self.of_file(file, folder), str(file))

    def _of_run(self, folder: Path) -> V:
        vocabulary = load_vocabulary(folder)
        if not isinstance(vocabulary, self.kind):
            raise ValueError(f"the vocabulary in {folder} is of kind {vocabulary.kind}, not {self.label}")
        return vocabulary

    def _on_hub(self, name: str) -> str:
        try:
            from transformers import AutoTokenizer

            return str(AutoTokenizer.from_pretrained(name).backend_tokenizer.to_str())
        except Exception as error:
            raise ValueError(
                f"it is not a file or folder, nor could it be loaded from the Hugging Face hub ({type(error).__name__})"
            ) from error

    def _checked(self, read: Callable[[], V], location: str) -> V:
        try:
            return read()
        except Exception as error:  # a file of a stranger may hold anything
            reason = f"key {error} is missing" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{location} holds no {self.label} vocabulary: {reason}") from None


def _download(name: str, file: str) -> Path | None:
    """A file of a repository on the hub; None if it has none, or cannot be reached."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, file))
    except Exception:  # what it has instead is tried next, and reported if that fails too
        return None


def content_of(name: str | None, names: Sequence[str]) -> str | None:
    """A hash of a file, or of the files of a folder with these names; None if none exists, or they are on the hub."""
    files = [] if name is None else [path for path in _files(Path(name).expanduser(), names) if path.is_file()]
    if not files:
        return None
    contents = [path.read_bytes() for path in files]
    # Earlier versions read some files otherwise: what they prepared with those is prepared again.
    salt = b"2" if any(map(_read_otherwise, contents)) else b""
    return hashlib.sha256(salt + b"".join(hashlib.sha256(text).digest() for text in contents)).hexdigest()[:16]


def _read_otherwise(content: bytes) -> bool:
    """Whether earlier versions read a file otherwise; they normalized every SentencePiece vocabulary."""
    is_plain = b'"Unigram"' in content and b'"Precompiled"' not in content
    return is_plain or _READ_OTHERWISE.search(content) is not None


def _files(path: Path, names: Sequence[str]) -> list[Path]:
    return [path, *(path / name for name in names)]
