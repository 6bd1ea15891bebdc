"""Which SentencePiece vocabulary a corpus gets, and reading one that exists."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lmrecipes.data.tokenizers.loading import load_vocabulary
from lmrecipes.data.tokenizers.sentencepiece import SENTINEL, SentencePiece
from lmrecipes.data.tokenizers.spm_model import PieceModel, read_model
from lmrecipes.data.tokenizers.spm_trainer import learn_pieces


@dataclass(frozen=True, kw_only=True)
class SentencePieceSettings:
    """Which SentencePiece vocabulary a corpus gets."""

    name: str | None = None
    """A SentencePiece `.model` file, a folder with spiece.model, tokenizer.json or a run's vocabulary, or a name on
    the Hugging Face hub; left out, a vocabulary is learned from the corpus."""
    vocab_size: int = 250_000
    """Tokens to learn at most, without the sentinels."""
    character_coverage: float = 0.99999
    """Share of the text whose characters become tokens; the rarest are spelled in bytes."""
    sample_mb: int = 100
    """Text to learn from at most, in millions of characters."""

    def __post_init__(self) -> None:
        """Validate the configuration.

        Raises:
            ValueError: naming the field and what would work.
        """
        for field, least in (("vocab_size", 300), ("sample_mb", 1)):
            if getattr(self, field) < least:
                raise ValueError(f"data.sentencepiece.{field} is {getattr(self, field)}; it must be {least} or more")
        if not 0.9 <= self.character_coverage <= 1:
            raise ValueError(
                f"data.sentencepiece.character_coverage is {self.character_coverage}; it must be 0.9 to 1, as 0.99999"
            )

    def describe(self) -> dict[str, Any]:
        """What identifies the vocabulary: the settings, and the content of the files that they name."""
        return {**asdict(self), "content": self.content()}

    def content(self) -> str | None:
        """A hash of the files that it is read from; None if they are on the hub, gone, or there are none."""
        files = [] if self.name is None else [path for path in _files(Path(self.name).expanduser()) if path.is_file()]
        if not files:
            return None
        return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files)).hexdigest()[:16]

    def make(self, sample: Callable[[int], Iterable[str]]) -> SentencePiece:
        """The vocabulary.

        Args:
            sample: gives texts to learn from, of so many characters at most.

        Raises:
            ValueError: if it cannot be read or learned.
        """
        if self.name is not None:
            return load_sentencepiece(self.name)
        texts = list(sample(self.sample_mb * 1_000_000))
        if not texts:
            raise ValueError("data.sources have no text to learn a vocabulary from")
        return SentencePiece(learn_pieces(texts, self.vocab_size, self.character_coverage))


def _files(path: Path) -> list[Path]:
    """What a vocabulary may be read from, the best first."""
    return [
        path,
        *(path / name for name in ("vocabulary.json", "spiece.model", "sentencepiece.model", "tokenizer.json")),
    ]


def load_sentencepiece(name: str) -> SentencePiece:
    """A SentencePiece vocabulary by file, folder or hub name.

    Args:
        name: what `SentencePieceSettings.name` takes.

    Raises:
        ValueError: if there is none that can be read.
    """
    path = Path(name).expanduser()
    if not path.exists():
        return _checked(lambda: _from_hub(name), name)
    found = next((file for file in _files(path) if file.is_file()), None)
    if found is None:
        raise ValueError(f"{path} has no vocabulary: no vocabulary.json, spiece.model or tokenizer.json")
    if found.name == "vocabulary.json":
        vocabulary = load_vocabulary(found.parent)
        if not isinstance(vocabulary, SentencePiece):
            raise ValueError(f"the vocabulary in {path} is one of kind {vocabulary.kind}, not SentencePiece")
        return vocabulary
    if found.suffix == ".json":
        return _checked(lambda: _of_tokenizer(json.loads(found.read_text(encoding="utf-8"))), str(found))
    return _checked(lambda: SentencePiece(read_model(found)), str(found))


def _checked(read: Callable[[], SentencePiece], where: str) -> SentencePiece:
    try:
        return read()
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{where} holds no SentencePiece vocabulary: {error}") from None


def _of_tokenizer(content: dict[str, Any]) -> SentencePiece:
    """A tokenizer.json of transformers."""
    model = content["model"]
    if model.get("type") != "Unigram":
        raise ValueError(f"its model is {model.get('type')}, not Unigram")
    pieces = [(piece, float(score)) for piece, score in model["vocab"]]
    # A model that has sentinels of its own needs none of those that were added to it.
    has_own = bool(SENTINEL.fullmatch(pieces[-1][0]))
    for added in [] if has_own else sorted(content.get("added_tokens", []), key=lambda token: token["id"]):
        if added["id"] == len(pieces) and SENTINEL.fullmatch(added["content"]):
            pieces.append((added["content"], 0.0))
    normalizer = content.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer])
    charsmap = next((step["precompiled_charsmap"] for step in steps if step.get("type") == "Precompiled"), "")
    return SentencePiece(PieceModel(pieces, base64.b64decode(charsmap), bool(model.get("byte_fallback"))))


def _from_hub(name: str) -> SentencePiece:
    try:
        from transformers import AutoTokenizer

        found = json.loads(AutoTokenizer.from_pretrained(name).backend_tokenizer.to_str())
    except Exception as error:
        raise ValueError(
            f"it is no file or folder, and the Hugging Face hub has none ({type(error).__name__})"
        ) from error
    return _of_tokenizer(found)
