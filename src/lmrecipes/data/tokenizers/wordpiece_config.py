"""Settings of a WordPiece vocabulary, and loading an existing one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lmrecipes.config.validation import at_least
from lmrecipes.data.tokenizers.base import FILE
from lmrecipes.data.tokenizers.pretrained import TOKENIZER, Pretrained, content_of
from lmrecipes.data.tokenizers.wordpiece import WordPiece
from lmrecipes.data.tokenizers.wordpiece_trainer import train_wordpiece
from lmrecipes.runtime.open_file import parse_json, read_json, read_text

_LINES, _CONFIG = "vocab.txt", "tokenizer_config.json"
# Settings of transformers, and the arguments of WordPiece that they are.
_SETTINGS = {
    "do_lower_case": "lower_case",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "chinese_chars",
}
# Settings of a tokenizer.json that have one supported value.
_FIXED = (
    ("model", "unk_token", "[UNK]"),
    ("model", "continuing_subword_prefix", "##"),
    ("model", "max_input_chars_per_word", 100),
    ("normalizer", "clean_text", True),
)


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
            try:
                return load_wordpiece(self.name, self.lower_case)
            except ValueError as error:
                raise ValueError(f"data.wordpiece.name: {error}") from error
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
    return WordPiece(
        vocabulary.tokens,
        lower_case=bool(lower_case),
        strip_accents=vocabulary.strip_accents,
        chinese_chars=vocabulary.chinese_chars,
    )


def _of_lines(path: Path, folder: Path | None) -> WordPiece:
    """A token per line; in a folder of transformers, its configuration of the normalization."""
    settings = _settings(folder)
    try:
        tokens = [line.rstrip("\r") for line in read_text(path).split("\n")]
        while tokens and not tokens[-1]:
            tokens.pop()
        return WordPiece(tokens, **settings)
    except ValueError as error:
        raise ValueError(f"it cannot be read as a vocab.txt, a token per line: {error}") from None


def _settings(folder: Path | None) -> dict[str, Any]:
    """Arguments of WordPiece that a folder's configuration gives.

    Raises:
        ValueError: if it cannot be read.
    """
    config = None if folder is None else folder / _CONFIG
    if config is None or not config.is_file():
        return {}
    settings = read_json(config)
    if not isinstance(settings, dict):
        raise ValueError(f"{config} holds {type(settings).__name__}, not keys and values")
    return {ours: settings[theirs] for theirs, ours in _SETTINGS.items() if theirs in settings}


def _of_tokenizer(text: str, folder: Path | None) -> WordPiece:
    """A tokenizer.json of transformers; what the folder's configuration says of the normalization comes first."""
    content = parse_json(text)
    model, normalizer = content["model"], content.get("normalizer") or {}
    if model.get("type") != "WordPiece":
        raise ValueError(f"its model is {model.get('type')}")
    if normalizer.get("type") != "BertNormalizer":
        raise ValueError(f"its normalizer is {normalizer.get('type')}, not BertNormalizer")
    ids = {**model["vocab"], **{added["content"]: added["id"] for added in content.get("added_tokens", [])}}
    tokens = sorted(ids, key=ids.__getitem__)
    if [ids[token] for token in tokens] != list(range(len(tokens))):
        raise ValueError("its ids have gaps")
    for place, key, supported in _FIXED:
        if (value := content[place].get(key, supported)) != supported:
            raise ValueError(f"its {place} has {key} {value!r}; only {supported!r} can be read")
    settings = {
        "lower_case": normalizer["lowercase"],
        "strip_accents": normalizer.get("strip_accents"),
        "chinese_chars": normalizer.get("handle_chinese_chars", True),
    }
    return WordPiece(tokens, **settings | _settings(folder))


_PRETRAINED = Pretrained(
    label="WordPiece", kind=WordPiece, names=(TOKENIZER, _LINES), of_tokenizer=_of_tokenizer, of_file=_of_lines
)
