"""Which vocabulary a corpus gets, and building it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Literal

from lmrecipes.data.vocabularies import SubwordVocabulary


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
        """Refuse settings that cannot be.

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


def train_bpe(blocks: Iterator[str], vocab_size: int) -> SubwordVocabulary:
    """Learns a byte-level BPE from text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator((line for block in blocks for line in StringIO(block)), trainer)
    return SubwordVocabulary(tokenizer.to_str())


def load_pretrained(name: str) -> SubwordVocabulary:
    """A tokenizer by hub name, folder or tokenizer.json.

    Raises:
        ValueError: if there is none that can be loaded.
    """
    path = Path(name)
    if path.is_file():
        return SubwordVocabulary(path.read_text(encoding="utf-8"))
    if (path / "tokenizer.json").is_file():
        return SubwordVocabulary((path / "tokenizer.json").read_text(encoding="utf-8"))
    if (path / "vocab.json").is_file() and (path / "merges.txt").is_file():
        from tokenizers import ByteLevelBPETokenizer

        made = ByteLevelBPETokenizer.from_file(str(path / "vocab.json"), str(path / "merges.txt"))
        return SubwordVocabulary(made.to_str())
    try:
        from transformers import AutoTokenizer

        return SubwordVocabulary(AutoTokenizer.from_pretrained(name).backend_tokenizer.to_str())
    except Exception as error:
        raise ValueError(
            f"data.tokenizing.name {name} is no folder with a tokenizer, and could not be loaded from the hub "
            f"({type(error).__name__})"
        ) from error
