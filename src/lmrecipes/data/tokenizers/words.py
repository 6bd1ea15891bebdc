"""White-space separated words, as WikiText is published."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from lmrecipes.data.tokenizers.base import Ids, Vocabulary
from lmrecipes.data.tokenizers.wikitext import split_words

EOS, UNK = "<eos>", "<unk>"


class WordVocabulary(Vocabulary):
    """White-space separated words, sorted by frequency, and marks for line ends.

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
        id = self._ids.get(word, self.unknown)
        if id < 0:
            raise ValueError(f"the word {word!r} is not in the vocabulary of {self.size}, which has no {UNK}")
        return id

    def encode(self, text: str) -> list[int]:
        """Ids of typed text, split like the corpus, after the end of a previous line."""
        lines = text.split("\n")
        words = [self.line_end[-1]]
        for number, line in enumerate(lines):
            line = line.lower() if self.lower_case else line
            words += split_words(line) if self.wikitext_style else line.split()
            words += self.line_end if number + 1 < len(lines) else ()
        return [self._id(word) for word in words]

    def decode(self, ids: Iterable[int]) -> str:
        """Words joined by spaces, a line per line, without leading and trailing line ends."""
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
    """Words of a corpus, with `line_end` for every newline."""
    if lower_case:
        text = text.lower()
    return text.replace("\n", f" {' '.join(line_end)} ").split()
