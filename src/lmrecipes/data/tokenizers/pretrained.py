"""Loading an existing vocabulary: a file, a folder of transformers or of a run, or a name on the hub."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from lmrecipes.data.tokenizers.base import FILE, Vocabulary
from lmrecipes.data.tokenizers.loading import load_vocabulary

TOKENIZER = "tokenizer.json"
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
    of_tokenizer: Callable[[str], V]
    """Creates one from the text of a tokenizer.json."""
    of_file: Callable[[Path, bool], V]
    """Reads one from another file; the flag says whether its folder was named, whose other files then apply."""

    def load(self, name: str) -> V:
        """A vocabulary by file, folder or hub name.

        Raises:
            ValueError: if it does not exist or cannot be read.
        """
        path = Path(name).expanduser()
        if not path.exists():
            return self._checked(lambda: self.of_tokenizer(self._on_hub(name)), name)
        file = next((file for file in _files(path, (FILE, *self.names)) if file.is_file()), None)
        if file is None:
            raise ValueError(f"{path} has no vocabulary: no {', '.join(self.names)} or {FILE}")
        if file.name == FILE:
            return self._of_run(file.parent)
        if file.suffix == ".json" and (file.name == TOKENIZER or file.name not in self.names):
            return self._checked(lambda: self.of_tokenizer(file.read_text(encoding="utf-8")), str(file))
        return self._checked(lambda: self.of_file(file, file != path), str(file))

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
            raise ValueError(f"{location} holds no {self.label} vocabulary: {error}") from None


def content_of(name: str | None, names: Sequence[str]) -> str | None:
    """A hash of a file, or of the files of a folder with these names; None if none exists, or they are on the hub."""
    files = [] if name is None else [path for path in _files(Path(name).expanduser(), names) if path.is_file()]
    if not files:
        return None
    return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files)).hexdigest()[:16]


def _files(path: Path, names: Sequence[str]) -> list[Path]:
    return [path, *(path / name for name in names)]
