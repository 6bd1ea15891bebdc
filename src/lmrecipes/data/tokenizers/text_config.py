"""Which vocabulary a corpus gets, and building it."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Tokenizing:
    """How text becomes tokens."""

    kind: Literal["word", "char", "byte", "bpe", "pretrained"] = "word"
    """Words between white space, characters, bytes, a BPE trained on the corpus, or a tokenizer that exists."""
    min_freq: int = 1
    """Words seen less often in training become <unk> (word)."""
    lower_case: bool = False
    """Whether text is lower-cased (word)."""
    wikitext_style: bool = False
    """Whether text typed for scoring is split like WikiText: punctuation apart, 3 @,@ 000 (word)."""
    sentence_marks: bool = False
    """Whether every line stands between two <S> instead of ending in <eos> (word; as One Billion Word is published)."""
    vocab_file: str | None = None
    """File with a word per line, instead of counting words (word)."""
    vocab_size: int = 8000
    """Tokens to learn (bpe)."""
    name: str | None = None
    """Name on the Hugging Face hub, folder, or tokenizer.json (pretrained)."""

    def __post_init__(self) -> None:
        """Validate the configuration.

        Raises:
            ValueError: naming the field and what would work.
        """
        if self.min_freq < 1:
            raise ValueError(f"data.tokenizing.min_freq is {self.min_freq}; it must be 1 or more")
        if self.vocab_size < 300:
            raise ValueError(f"data.tokenizing.vocab_size is {self.vocab_size}; a byte-level BPE needs 300 or more")
        if self.kind == "pretrained" and not self.name:
            raise ValueError("data.tokenizing.name is missing; give a hub name, folder or tokenizer.json, such as gpt2")

    def describe(self) -> dict[str, Any]:
        """What identifies the tokens made this way: the settings, and the content of the files that they name.

        Raises:
            ValueError: if vocab_file is no file.
        """
        if self.vocab_file is not None and not Path(self.vocab_file).is_file():
            raise ValueError(f"data.tokenizing.vocab_file {self.vocab_file} is no file")
        return {**asdict(self), "content": self.content()}

    def content(self) -> str | None:
        """A hash of the vocabulary or tokenizer files; None if they are on the hub, gone, or there are none."""
        named = self.vocab_file if self.kind == "word" else self.name if self.kind == "pretrained" else None
        files = [] if named is None else [path for path in _tokenizer_files(Path(named)) if path.is_file()]
        if not files:
            return None
        return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files)).hexdigest()[:16]


def _tokenizer_files(path: Path) -> list[Path]:
    """The files that a tokenizer is read from, if they are there: the path itself, or what a folder holds."""
    return [path, *(path / name for name in ("tokenizer.json", "vocab.json", "merges.txt"))]
