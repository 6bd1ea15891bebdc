"""Vocabularies: text to token ids and back, kept in a folder of their own so that scoring needs no corpus."""

from __future__ import annotations

import hashlib
import io
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmrecipes.atomic_write import write_text
from lmrecipes.data.wikitext_style import split_words

Ids = NDArray[np.unsignedinteger[Any]]
FILE = "vocabulary.json"
EOS, UNK = "<eos>", "<unk>"
_PROBE = "Straße ÀÉ naïve, Ελληνικά 日本語 한국어 🙂"


class Vocabulary(ABC):
    """The tokens of a model."""

    kind: str
    spells: bool
    """Whether every text can be written in these tokens."""
    unknown: int = -1
    """The token that stands for everything else; -1 if there is none."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Different tokens."""

    @abstractmethod
    def encode_block(self, text: str) -> Ids:
        """Ids of a block of a corpus: whole lines, each with its newline, or a part of a line."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of a text that a person typed, preceded by what precedes a line in the corpus."""

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids."""

    @abstractmethod
    def _content(self) -> dict[str, Any]: ...

    def save(self, folder: Path) -> None:
        """Writes the vocabulary to a folder, all of it or nothing."""
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"kind": self.kind, **self._content()}, ensure_ascii=False)
        write_text(folder / FILE, text)

    def digest(self) -> str:
        """A hash that changes with the vocabulary."""
        return hashlib.sha256(json.dumps(self._content(), ensure_ascii=False).encode()).hexdigest()[:16]


class WordVocabulary(Vocabulary):
    """Words between white space, sorted by frequency; some of them are marks, which stand for a line's end.

    This is the published vocabulary of WikiText (267,735 words for WikiText-103).
    """

    kind = "word"
    spells = False

    def __init__(
        self,
        words: Sequence[str],
        *,
        lower_case: bool = False,
        wikitext_style: bool = False,
        line_end: Sequence[str] = (EOS,),
    ) -> None:
        self.words = list(words)
        self.lower_case = lower_case
        self.wikitext_style = wikitext_style
        self.line_end = tuple(line_end)
        self._ids = {word: i for i, word in enumerate(self.words)}
        self.unknown = self._ids.get(UNK, self._ids.get("<UNK>", -1))

    @property
    def size(self) -> int:
        """Different words."""
        return len(self.words)

    def encode_block(self, text: str) -> Ids:
        """Ids of a block.

        Raises:
            ValueError: naming the first unknown word, if there is no `<unk>`.
        """
        words = corpus_words(text, self.lower_case, self.line_end)
        return np.fromiter(map(self._id, words), dtype=np.uint32, count=len(words))

    def _id(self, word: str) -> int:
        found = self._ids.get(word, self.unknown)
        if found < 0:
            raise ValueError(f"the word {word!r} is not in the vocabulary of {self.size}, which has no {UNK}")
        return found

    def encode(self, text: str) -> list[int]:
        """Ids of typed text: split like the corpus, a newline ending a line, after the end of an earlier line."""
        lines = text.split("\n")
        words = [self.line_end[-1]]
        for number, line in enumerate(lines):
            line = line.lower() if self.lower_case else line
            words += split_words(line) if self.wikitext_style else line.split()
            words += self.line_end if number + 1 < len(lines) else ()
        return [self._id(word) for word in words]

    def decode(self, ids: Iterable[int]) -> str:
        """Words joined by spaces, each line on its own; without a line end before and after."""
        text = " ".join("\n" if self.words[i] in self.line_end else self.words[i] for i in ids)
        marks = f"(?: ?\n ?){{1,{len(self.line_end)}}}"
        return re.sub(marks, "\n", text).removeprefix("\n").removesuffix("\n")

    def _content(self) -> dict[str, Any]:
        return {
            "words": self.words,
            "lower_case": self.lower_case,
            "wikitext_style": self.wikitext_style,
            "line_end": list(self.line_end),
        }


def corpus_words(text: str, lower_case: bool, line_end: Sequence[str] = (EOS,)) -> list[str]:
    """Words of a corpus, and the marks of a line's end for every newline."""
    if lower_case:
        text = text.lower()
    return text.replace("\n", f" {' '.join(line_end)} ").split()


class CharacterVocabulary(Vocabulary):
    """Characters, or bytes, of a text, sorted by frequency."""

    spells = True

    def __init__(self, symbols: Sequence[int], *, kind: str = "char") -> None:
        self.kind = kind
        self.symbols = np.asarray(symbols, dtype=np.uint32)
        self._ids = np.full(int(self.symbols.max()) + 1 if len(symbols) else 1, -1, dtype=np.int64)
        self._ids[self.symbols] = np.arange(len(symbols))

    @property
    def size(self) -> int:
        """Different symbols."""
        return len(self.symbols)

    def encode_block(self, text: str) -> Ids:
        """Ids of text.

        Raises:
            ValueError: naming the first unknown character.
        """
        points = code_points(text, self.kind)
        known = points < len(self._ids)
        ids = np.where(known, self._ids[np.where(known, points, 0)], -1)
        if len(ids) and ids.min() < 0:
            raise ValueError(
                f"the character {chr(int(points[ids.argmin()]))!r} is not in the vocabulary of {self.size}"
            )
        return ids.astype(np.uint32)

    def encode(self, text: str) -> list[int]:
        """Ids of typed text."""
        return [int(i) for i in self.encode_block(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids."""
        points = [int(self.symbols[i]) for i in ids]
        return bytes(points).decode("utf-8", "replace") if self.kind == "byte" else "".join(map(chr, points))

    def _content(self) -> dict[str, Any]:
        return {"symbols": self.symbols.tolist()}


def code_points(text: str, kind: str) -> NDArray[Any]:
    """Characters or bytes of a text as numbers."""
    if kind == "byte":
        return np.frombuffer(text.encode("utf-8"), dtype=np.uint8)
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)


class SubwordVocabulary(Vocabulary):
    """A Hugging Face tokenizer (GPT-2's, any other, or one trained on the corpus)."""

    kind = "subword"

    def __init__(self, tokenizer_json: str) -> None:
        from tokenizers import Tokenizer

        self._json = tokenizer_json
        self._tokenizer = Tokenizer.from_str(tokenizer_json)
        # Padded to a multiple of 8 as published, which matrix units like.
        self._size = -(-self._tokenizer.get_vocab_size() // 8) * 8
        # Lower-casing, dropped accents and unknown characters hide what was written; a space before it does not.
        self.spells = self.decode(self.encode(_PROBE)).strip() == _PROBE

    @property
    def size(self) -> int:
        """Tokens, rounded up to a multiple of 8."""
        return self._size

    def encode_block(self, text: str) -> Ids:
        """Ids of a block, line by line."""
        lines = io.StringIO(text).readlines()  # str.splitlines also cuts at other characters than newlines
        encoded = self._tokenizer.encode_batch(lines, add_special_tokens=False)
        return np.concatenate([np.asarray(e.ids, dtype=np.uint32) for e in encoded] or [np.empty(0, np.uint32)])

    def encode(self, text: str) -> list[int]:
        """Ids of typed text, after a newline."""
        return [int(i) for i in self.encode_block("\n" + text)]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def _content(self) -> dict[str, Any]:
        return {"tokenizer": self._json}


def load_vocabulary(folder: Path) -> Vocabulary:
    """The vocabulary saved in a folder.

    Raises:
        ValueError: if there is none, or it cannot be read.
    """
    path = folder / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        kind = content.pop("kind")
        if kind == "word":
            return WordVocabulary(content.pop("words"), **content)
        if kind == "subword":
            return SubwordVocabulary(content["tokenizer"])
        if kind == "wordpiece":
            from lmrecipes.data.wordpiece import WordPiece

            return WordPiece(content.pop("tokens"), **content)
        if kind == "sentencepiece":
            from lmrecipes.data.sentencepiece import SentencePiece

            return SentencePiece.of_content(content)
        return CharacterVocabulary(content["symbols"], kind=kind)
    except FileNotFoundError:
        raise ValueError(f"no vocabulary in {folder}") from None
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"vocabulary {path} cannot be read: {error}") from error
