"""Settings of the vocabulary of running text, and loading existing tokenizers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from lmrecipes.config.validation import at_least
from lmrecipes.data.tokenizers.bpe import SubwordVocabulary
from lmrecipes.data.tokenizers.pretrained import TOKENIZER, Pretrained, content_of
from lmrecipes.runtime.open_file import read_json, read_text

_NAMES = (TOKENIZER, "vocab.json")
_MERGES = "merges.txt"


@dataclass(frozen=True, kw_only=True)
class Tokenizing:
    """How text becomes tokens."""

    kind: Literal["word", "char", "byte", "bpe", "pretrained"] = "word"
    """White-space separated words, characters, bytes, a BPE trained on the corpus, or an existing tokenizer."""
    min_freq: int = 1
    """Words that are less frequent in training become <unk> (word)."""
    lower_case: bool = False
    """Whether text is lower-cased (word)."""
    wikitext_style: bool = False
    """Whether text typed for scoring is split like WikiText: punctuation separate, 3 @,@ 000 (word)."""
    sentence_marks: bool = False
    """Whether every line is enclosed in <S> instead of ending in <eos>, as in One Billion Word (word)."""
    vocab_file: str | None = None
    """File with a word per line, instead of counting words (word)."""
    vocab_size: int = 8000
    """Tokens to learn (bpe)."""
    name: str | None = None
    """Name on the Hugging Face hub, folder, or tokenizer.json (pretrained)."""

    def __post_init__(self) -> None:
        at_least(self, "data.tokenizing.", min_freq=1, vocab_size=300)
        if self.kind == "pretrained" and not self.name:
            raise ValueError("data.tokenizing.name is missing; give a hub name, folder or tokenizer.json, such as gpt2")

    def describe(self) -> dict[str, Any]:
        """Identifies the tokenization: the settings and a hash of the files that they name.

        Raises:
            ValueError: if vocab_file is not a file.
        """
        if self.vocab_file is not None:
            self.listed_words()
        return {**asdict(self), "content": self.content()}

    def content(self) -> str | None:
        """A hash of the vocabulary or tokenizer files; None if they are on the hub, missing, or there are none."""
        path = self.vocab_file if self.kind == "word" else self.name if self.kind == "pretrained" else None
        return content_of(path, (*_NAMES, _MERGES))

    def listed_words(self) -> list[str]:
        """The words of vocab_file: the first of every line.

        Raises:
            ValueError: if it is not a file.
        """
        path = Path(str(self.vocab_file))
        if not path.is_file():
            raise ValueError(f"data.tokenizing.vocab_file {path} is not a file; give one with a word per line")
        return [line.split()[0] for line in read_text(path).split("\n") if line.strip()]


def load_subwords(name: str) -> SubwordVocabulary:
    """A tokenizer by hub name, folder or tokenizer.json.

    Raises:
        ValueError: if there is none that can be loaded.
    """
    try:
        vocabulary = _PRETRAINED.load(name)
    except ValueError as error:
        raise ValueError(f"data.tokenizing.name: {error}") from error
    vocabulary.origin = name
    return vocabulary


def _of_tokenizer(text: str, _: Path | None) -> SubwordVocabulary:
    try:
        return SubwordVocabulary(text)
    except Exception as error:  # the tokenizers package raises nothing more precise
        raise ValueError(str(error)) from None


def _of_merges(path: Path, folder: Path | None) -> SubwordVocabulary:
    """GPT-2's form: ids in one file, merges in another beside it."""
    from tokenizers import ByteLevelBPETokenizer

    merges = path.with_name(_MERGES)
    if path.name not in _NAMES:
        return _of_tokenizer(read_text(path), folder)
    if not merges.is_file():
        raise ValueError(f"there is no {_MERGES} beside it")
    lines = [line.rstrip("\r") for line in read_text(merges).split("\n")]
    pairs = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    try:
        return SubwordVocabulary(ByteLevelBPETokenizer(read_json(path), pairs).to_str())
    except Exception as error:  # the tokenizers package raises nothing more precise
        raise ValueError(str(error)) from None


_PRETRAINED = Pretrained(
    label="subword", kind=SubwordVocabulary, names=_NAMES, of_tokenizer=_of_tokenizer, of_file=_of_merges
)
