"""Settings of a SentencePiece vocabulary, and loading an existing one."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from lmrecipes.config.validation import at_least
from lmrecipes.data.tokenizers.base import FILE
from lmrecipes.data.tokenizers.pretrained import TOKENIZER, Pretrained, content_of
from lmrecipes.data.tokenizers.sentencepiece import SENTINEL, SentencePiece
from lmrecipes.data.tokenizers.spm_proto import model_of
from lmrecipes.data.tokenizers.spm_trainer import learn_pieces

_NAMES = ("spiece.model", "sentencepiece.model", TOKENIZER)


@dataclass(frozen=True, kw_only=True)
class SentencePieceSettings:
    """Which SentencePiece vocabulary a corpus gets."""

    name: str | None = None
    """A SentencePiece `.model` file, a folder with spiece.model, tokenizer.json or a run's vocabulary, or a name on
    the Hugging Face hub; left out, a vocabulary is learned from the corpus."""
    vocab_size: int = 250_000
    """Maximum tokens to learn, without the sentinels."""
    character_coverage: float = 0.99999
    """Share of the text whose characters become tokens; the rarest are encoded as bytes."""
    sample_mb: int = 100
    """Maximum text to learn from, in millions of characters."""

    def __post_init__(self) -> None:
        at_least(self, "data.sentencepiece.", vocab_size=300, sample_mb=1)
        if not 0.98 <= self.character_coverage <= 1:
            raise ValueError(
                f"data.sentencepiece.character_coverage is {self.character_coverage}; it must be 0.98 to 1, as 0.99999"
            )

    def describe(self) -> dict[str, Any]:
        """What identifies the vocabulary: the settings, and the content of the files that they name."""
        return {**asdict(self), "content": self.content()}

    def content(self) -> str | None:
        """A hash of the files that it is read from; None if they are on the hub, missing, or there are none."""
        return content_of(self.name, (FILE, *_NAMES))

    def make(self, sample: Callable[[int], Iterable[str]]) -> SentencePiece:
        """The vocabulary.

        Args:
            sample: returns texts to learn from, given their maximum characters.

        Raises:
            ValueError: if it cannot be read or learned.
        """
        if self.name is not None:
            return load_sentencepiece(self.name)
        texts = list(sample(self.sample_mb * 1_000_000))
        if not texts:
            raise ValueError("data.sources have no text to learn a vocabulary from")
        return SentencePiece(learn_pieces(texts, self.vocab_size, self.character_coverage))


def load_sentencepiece(name: str) -> SentencePiece:
    """A SentencePiece vocabulary by file, folder or hub name.

    Args:
        name: what `SentencePieceSettings.name` takes.

    Raises:
        ValueError: if it does not exist or cannot be read.
    """
    return _PRETRAINED.load(name)


def _of_tokenizer(text: str) -> SentencePiece:
    """A tokenizer.json of transformers."""
    content = json.loads(text)
    model = content["model"]
    if model.get("type") != "Unigram":
        raise ValueError(f"its model is {model.get('type')}, not Unigram")
    pieces = [(piece, float(score)) for piece, score in model["vocab"]]
    # A model with sentinels needs none of the added ones.
    has_sentinels = bool(SENTINEL.fullmatch(pieces[-1][0]))
    for added in [] if has_sentinels else sorted(content.get("added_tokens", []), key=lambda token: token["id"]):
        if added["id"] == len(pieces) and SENTINEL.fullmatch(added["content"]):
            pieces.append((added["content"], 0.0))
    normalizer = content.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer])
    charsmap = next((step["precompiled_charsmap"] for step in steps if step.get("type") == "Precompiled"), "")
    byte_fallback = bool(model.get("byte_fallback"))
    return SentencePiece(model_of(pieces, base64.b64decode(charsmap), byte_fallback=byte_fallback))


_PRETRAINED = Pretrained(
    label="SentencePiece",
    kind=SentencePiece,
    names=_NAMES,
    of_tokenizer=_of_tokenizer,
    of_file=lambda path, _: SentencePiece(path.read_bytes()),
)
