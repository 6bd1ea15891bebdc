"""Which WordPiece vocabulary a corpus gets, and reading one that exists."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lmrecipes.data.tokenizers.loading import load_vocabulary
from lmrecipes.data.tokenizers.wordpiece import WordPiece
from lmrecipes.data.tokenizers.wordpiece_trainer import train_wordpiece


@dataclass(frozen=True, kw_only=True)
class WordPieceSettings:
    """Which WordPiece vocabulary a corpus gets."""

    name: str | None = None
    """A vocab.txt, a tokenizer.json, a folder with one of them or with a run's vocabulary, or a name on the Hugging
    Face hub; left out, a vocabulary is learned from the corpus."""
    vocab_size: int = 30522
    """Tokens to learn at most."""
    lower_case: bool | None = None
    """Whether text is lower-cased; left out, as the folder says, and else yes."""
    sample_mb: int = 100
    """Text to learn from at most, in millions of characters."""

    def __post_init__(self) -> None:
        """Validate the configuration.

        Raises:
            ValueError: naming the field and what would work.
        """
        for field, least in (("vocab_size", 100), ("sample_mb", 1)):
            if getattr(self, field) < least:
                raise ValueError(f"data.wordpiece.{field} is {getattr(self, field)}; it must be {least} or more")

    def describe(self) -> dict[str, Any]:
        """What identifies the vocabulary: the settings, and the content of the files that they name."""
        return {**asdict(self), "content": self.content()}

    def content(self) -> str | None:
        """A hash of the files that it is read from; None if they are on the hub, gone, or there are none."""
        files = [] if self.name is None else [path for path in _files(Path(self.name).expanduser()) if path.is_file()]
        if not files:
            return None
        return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files)).hexdigest()[:16]

    def make(self, sample: Callable[[int], Iterable[str]]) -> WordPiece:
        """The vocabulary.

        Args:
            sample: gives texts to learn from, of so many characters at most.

        Raises:
            ValueError: if it cannot be read or learned.
        """
        if self.name is not None:
            return load_wordpiece(self.name, self.lower_case)
        texts = list(sample(self.sample_mb * 1_000_000))
        if not texts:
            raise ValueError("data.sources have no text to learn a vocabulary from")
        return train_wordpiece(texts, self.vocab_size, self.lower_case is not False)


def _files(path: Path) -> list[Path]:
    """What a vocabulary may be read from, the best first."""
    names = ("vocabulary.json", "tokenizer.json", "vocab.txt", "tokenizer_config.json")
    return [path, *(path / name for name in names)]


def load_wordpiece(name: str, lower_case: bool | None = None) -> WordPiece:
    """A WordPiece vocabulary by file, folder or hub name.

    Args:
        name: what `WordPieceSettings.name` takes.
        lower_case: whether text is lower-cased; left out, as the folder says, and else yes.

    Raises:
        ValueError: if there is none that can be read.
    """
    path = Path(name).expanduser()
    saved, tokenizer, vocab, config = (path / file.name for file in _files(path)[1:])
    if path.is_file():
        return _from_json(path, lower_case) if path.suffix == ".json" else _from_lines(path, lower_case)
    if saved.is_file():
        vocabulary = load_vocabulary(path)
        if not isinstance(vocabulary, WordPiece):
            raise ValueError(f"the vocabulary in {path} is one of kind {vocabulary.kind}, not WordPiece")
        return vocabulary if lower_case is None else WordPiece(vocabulary.tokens, lower_case=lower_case)
    if tokenizer.is_file():
        return _from_json(tokenizer, lower_case)
    if vocab.is_file():
        said = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
        lower = said.get("do_lower_case", True) if lower_case is None else lower_case
        return _from_lines(vocab, lower, said.get("strip_accents"))
    if path.exists():
        raise ValueError(f"{path} has no vocabulary: no vocab.txt, tokenizer.json or vocabulary.json")
    return _from_hub(name, lower_case)


def _from_lines(path: Path, lower_case: bool | None, strip_accents: bool | None = None) -> WordPiece:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        tokens = [line.rstrip("\r") for line in lines]
        while tokens and not tokens[-1]:
            tokens.pop()
        return WordPiece(tokens, lower_case=lower_case is not False, strip_accents=strip_accents)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as a vocab.txt, a token per line: {error}") from None


def _from_json(path: Path, lower_case: bool | None) -> WordPiece:
    try:
        return _of_tokenizer(json.loads(path.read_text(encoding="utf-8")), lower_case)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no WordPiece tokenizer: {error}") from None


def _of_tokenizer(content: dict[str, Any], lower_case: bool | None) -> WordPiece:
    model, normalizer = content["model"], content.get("normalizer") or {}
    if model.get("type") != "WordPiece":
        raise ValueError(f"its model is {model.get('type')}")
    if normalizer.get("type") != "BertNormalizer":
        raise ValueError(f"its normalizer is {normalizer.get('type')}, not BertNormalizer")
    ids = {**model["vocab"], **{added["content"]: added["id"] for added in content.get("added_tokens", [])}}
    tokens = sorted(ids, key=ids.__getitem__)
    if [ids[token] for token in tokens] != list(range(len(tokens))):
        raise ValueError("its ids have gaps")
    lower = normalizer["lowercase"] if lower_case is None else lower_case
    return WordPiece(tokens, lower_case=lower, strip_accents=normalizer.get("strip_accents"))


def _from_hub(name: str, lower_case: bool | None) -> WordPiece:
    try:
        from transformers import AutoTokenizer

        found = json.loads(AutoTokenizer.from_pretrained(name).backend_tokenizer.to_str())
    except Exception as error:
        raise ValueError(
            f"{name} is no file or folder with a WordPiece vocabulary, and could not be loaded from the Hugging Face "
            f"hub ({type(error).__name__})"
        ) from error
    try:
        return _of_tokenizer(found, lower_case)
    except ValueError as error:
        raise ValueError(f"{name} on the hub is no WordPiece tokenizer: {error}") from None
