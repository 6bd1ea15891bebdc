"""Settings of a SentencePiece vocabulary, and loading an existing one."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lmrecipes.config.validation import at_least
from lmrecipes.data.tokenizers.base import FILE
from lmrecipes.data.tokenizers.pretrained import TOKENIZER, Pretrained, content_of
from lmrecipes.data.tokenizers.sentencepiece import SENTINEL, SentencePiece
from lmrecipes.data.tokenizers.spm_proto import charsmap_of, model_of
from lmrecipes.data.tokenizers.spm_trainer import learn_pieces
from lmrecipes.runtime.open_file import parse_json

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
            try:
                return load_sentencepiece(self.name)
            except ValueError as error:
                raise ValueError(f"data.sentencepiece.name: {error}") from error
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


def _of_tokenizer(text: str, _: Path | None) -> SentencePiece:
    """A tokenizer.json of transformers."""
    content = parse_json(text)
    model = content["model"]
    if model.get("type") != "Unigram":
        raise ValueError(f"its model is {model.get('type')}, not Unigram")
    pieces = [(piece, float(score)) for piece, score in model["vocab"]]
    # A model with sentinels needs none of the added ones.
    has_sentinels = bool(SENTINEL.fullmatch(pieces[-1][0]))
    for added in [] if has_sentinels else sorted(content.get("added_tokens", []), key=lambda token: token["id"]):
        if added["id"] == len(pieces) and SENTINEL.fullmatch(added["content"]):
            pieces.append((added["content"], 0.0))
    if model.get("unk_id") is None:
        raise ValueError("its model has no unk_id, the piece for what is unknown")
    control = {added["content"] for added in content.get("added_tokens", []) if added.get("special")}
    return SentencePiece(
        model_of(
            pieces,
            byte_fallback=bool(model.get("byte_fallback")),
            unknown=model["unk_id"],
            control=control | {"<pad>", "</s>"},
            **_normalization(content),
        )
    )


def _normalization(content: dict[str, Any]) -> dict[str, Any]:
    """What a tokenizer.json does to a text before it is split, as arguments of `model_of`.

    Raises:
        ValueError: for a step that SentencePiece does not have.
    """
    normalizers = _steps(content.get("normalizer"), "normalizers")
    splitters = _steps(content.get("pre_tokenizer"), "pretokenizers")
    done: dict[str, Any] = {"charsmap": b"", "add_dummy_prefix": False, "remove_extra_whitespaces": False}
    for step in normalizers:
        kind, pattern = step["type"], step.get("pattern", {})
        if kind == "Precompiled":
            done["charsmap"] = base64.b64decode(step["precompiled_charsmap"])
        elif kind in ("Nmt", "NFKC"):
            nmt = any(other["type"] == "Nmt" for other in normalizers)
            done["charsmap"] = charsmap_of("nmt_nfkc" if nmt else "nfkc")
        elif kind == "Strip" or (kind == "Replace" and pattern.get("Regex") == " {2,}"):
            done["remove_extra_whitespaces"] = True
        elif kind == "Prepend":
            done["add_dummy_prefix"] = True
        elif kind != "Replace" or pattern.get("String") != " ":
            raise ValueError(f"its normalizer has the step {kind} {pattern or ''}, which SentencePiece does not have")
    for step in splitters:
        if step["type"] == "WhitespaceSplit":
            done["remove_extra_whitespaces"] = True
        elif step["type"] == "Metaspace":
            scheme = step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never")
            done["add_dummy_prefix"] = scheme != "never"
        else:
            raise ValueError(f"its pre_tokenizer has the step {step['type']}, which SentencePiece does not have")
    return done


def _steps(step: dict[str, Any] | None, several: str) -> list[dict[str, Any]]:
    return [] if step is None else list(step.get(several, [step]))


_PRETRAINED = Pretrained(
    label="SentencePiece",
    kind=SentencePiece,
    names=_NAMES,
    of_tokenizer=_of_tokenizer,
    of_file=lambda path, _: SentencePiece(path.read_bytes()),
    # transformers 5 converts T5's models without their byte fallback.
    from_hub=("spiece.model", "sentencepiece.model"),
)
