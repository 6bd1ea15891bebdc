"""Settings of a WordPiece vocabulary, and loading an existing one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lmrecipes.config.validation import at_least
from lmrecipes.data.tokenizers.base import FILE
from lmrecipes.data.tokenizers.pretrained import TOKENIZER, Pretrained, content_of
from lmrecipes.data.tokenizers.wordpiece import WordPiece
from lmrecipes.data.tokenizers.wordpiece_trainer import train_wordpiece

_LINES, _CONFIG = "vocab.txt", "tokenizer_config.json"


@dataclass(frozen=True, kw_only=True)
class WordPieceSettings:
    """Which WordPiece vocabulary a corpus gets."""

    name: str | None = None
    """A vocab.txt, a tokenizer.json, a folder with one of them or with a run's vocabulary, or a name on the Hugging
    Face hub; left out, a vocabulary is learned from the corpus."""
    vocab_size: int = 30522
    """Maximum tokens to learn."""
    lower_case: bool | None = None
    """Whether text is lower-cased; left out, as the folder says, otherwise yes."""
    sample_mb: int = 100
    """Maximum text to learn from, in millions of characters."""

    def __post_init__(self) -> None:
        at_least(self, "data.wordpiece.", vocab_size=100, sample_mb=1)

    def describe(self) -> dict[str, Any]:
        """What identifies the vocabulary: the settings, and the content of the files that they name."""
        return {**asdict(self), "content": self.content()}

    def content(self) -> str | None:
        """A hash of the files that it is read from; None if they are on the hub, missing, or there are none."""
        return content_of(self.name, (FILE, TOKENIZER, _LINES, _CONFIG))

    def make(self, sample: Callable[[int], Iterable[str]]) -> WordPiece:
        """The vocabulary.

        Args:
            sample: returns texts to learn from, given their maximum characters.

        Raises:
            ValueError: if it cannot be read or learned.
        """
        if self.name is not None:
            return load_wordpiece(self.name, self.lower_case)
        texts = list(sample(self.sample_mb * 1_000_000))
        if not texts:
            raise ValueError("data.sources have no text to learn a vocabulary from")
        return train_wordpiece(texts, self.vocab_size, self.lower_case is not False)


def load_wordpiece(name: str, lower_case: bool | None = None) -> WordPiece:
    """A WordPiece vocabulary by file, folder or hub name.

    Args:
        name: what `WordPieceSettings.name` takes.
        lower_case: whether text is lower-cased; left out, as the folder says, otherwise yes.

    Raises:
        ValueError: if it does not exist or cannot be read.
    """
    vocabulary = _PRETRAINED.load(name)
    if lower_case in (None, vocabulary.lower_case):
        return vocabulary
    return WordPiece(vocabulary.tokens, lower_case=bool(lower_case), strip_accents=vocabulary.strip_accents)


def _of_lines(path: Path, in_folder: bool) -> WordPiece:
    """A token per line; in a folder of transformers, its configuration of the normalization."""
    config = path.with_name(_CONFIG)
    settings = json.loads(config.read_text(encoding="utf-8")) if in_folder and config.is_file() else {}
    try:
        tokens = [line.rstrip("\r") for line in path.read_text(encoding="utf-8").split("\n")]
        while tokens and not tokens[-1]:
            tokens.pop()
        lower = settings.get("do_lower_case", True)
        return WordPiece(tokens, lower_case=lower, strip_accents=settings.get("strip_accents"))
    except ValueError as error:
        raise ValueError(f"it cannot be read as a vocab.txt, a token per line: {error}") from None


def _of_tokenizer(text: str) -> WordPiece:
    """A tokenizer.json of transformers."""
    content = json.loads(text)
    model, normalizer = content["model"], content.get("normalizer") or {}
    if model.get("type") != "WordPiece":
        raise ValueError(f"its model is {model.get('type')}")
    if normalizer.get("type") != "BertNormalizer":
        raise ValueError(f"its normalizer is {normalizer.get('type')}, not BertNormalizer")
    ids = {**model["vocab"], **{added["content"]: added["id"] for added in content.get("added_tokens", [])}}
    tokens = sorted(ids, key=ids.__getitem__)
    if [ids[token] for token in tokens] != list(range(len(tokens))):
        raise ValueError("its ids have gaps")
    return WordPiece(tokens, lower_case=normalizer["lowercase"], strip_accents=normalizer.get("strip_accents"))


_PRETRAINED = Pretrained(
    label="WordPiece", kind=WordPiece, names=(TOKENIZER, _LINES), of_tokenizer=_of_tokenizer, of_file=_of_lines
)
