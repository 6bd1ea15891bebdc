"""Encoding many texts by WordPiece: every distinct word is split once."""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from itertools import chain

from lmrecipes.data.tokenizers.wordpiece import WordPiece

_MAX_WORDS = 1_000_000
# Unicode has no signs beyond its first two planes.
_SIGNS_END = 0x20000
_CONTROLS = {i: None for i in [*range(32), 127] if chr(i) not in "\t\n\r"}
_SPACES = {ord(space): " " for space in "\t\n\r"}
# Python matches a set of characters ten times as fast if none is beyond the basic plane.
_RARE = re.compile("[\U00010000-\U0010ffff]")
_ASCII_WORDS = re.compile(r"[a-zA-Z0-9]+|[^a-zA-Z0-9 ]")


class WordCache(dict[str, list[int]]):
    """The ids of `WordPiece.encode`, several times as fast; caches words."""

    def __init__(self, vocabulary: WordPiece) -> None:
        super().__init__()
        self._model = vocabulary.tokenizer.model
        self._normalize = vocabulary.tokenizer.normalizer.normalize_str
        capitals = {i: chr(i).lower() for i in range(65, 91)} if vocabulary.lower_case else {}
        self._ascii = {**_CONTROLS, **_SPACES, **capitals}
        self._words, self._rare_words = _patterns()

    def __missing__(self, word: str) -> list[int]:
        if len(self) >= _MAX_WORDS:
            self.clear()
        ids = self[word] = [token.id for token in self._model.tokenize(word)]
        return ids

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without [CLS] and [SEP]."""
        if text.isascii():
            words = _ASCII_WORDS.findall(text.translate(self._ascii))
        else:
            text = self._normalize(text)
            words = (self._rare_words if _RARE.search(text) else self._words).findall(text)
        return list(chain.from_iterable(map(self.__getitem__, words)))


@cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Patterns of words and of punctuation, each a word of its own: in the basic plane, and anywhere."""
    marks = _signs()
    return _pattern("".join(mark for mark in marks if mark <= "\uffff")), _pattern(marks)


def _pattern(marks: str) -> re.Pattern[str]:
    marks = re.escape(marks)
    return re.compile(f"[^ {marks}]+|[{marks}]")


def _signs() -> str:
    """Characters that the tokenizer separates as words, found by trying all candidates."""
    from tokenizers import pre_tokenizers

    candidates = (chr(i) for i in range(33, _SIGNS_END))
    signs = [character for character in candidates if unicodedata.category(character)[0] in "PS"]
    split = pre_tokenizers.BertPreTokenizer().pre_tokenize_str("a".join(signs))
    return "".join(part for part, _ in split if len(part) == 1 and part != "a")
