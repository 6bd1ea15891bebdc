"""Subwords by a Hugging Face tokenizer: GPT-2's, any other, or a byte-level BPE learned from the corpus."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from io import StringIO
from typing import Any

import numpy as np

from lmrecipes.data.tokenizers.base import Ids, Vocabulary

_PROBE = "Straße ÀÉ naïve, Ελληνικά 日本語 한국어 🙂"


class SubwordVocabulary(Vocabulary):
    """A Hugging Face tokenizer: GPT-2's, any other, or a BPE learned from the corpus."""

    kind = "subword"

    def __init__(self, tokenizer_json: str) -> None:
        from tokenizers import Tokenizer

        self._json = tokenizer_json
        self._tokenizer = Tokenizer.from_str(tokenizer_json)
        # Padded to a multiple of 8 as published, which suits matrix units.
        self._size = -(-self._tokenizer.get_vocab_size() // 8) * 8
        # Lower-casing, dropped accents and unknown characters lose information; a leading space does not.
        self.spells = self.decode(self.encode(_PROBE)).strip() == _PROBE

    @property
    def size(self) -> int:
        """Tokens, rounded up to a multiple of 8."""
        return self._size

    def encode_block(self, text: str) -> Ids:
        """Ids of a block, line by line."""
        lines = io.StringIO(text).readlines()  # str.splitlines also splits at characters other than newlines
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


def train_bpe(blocks: Iterator[str], vocab_size: int) -> SubwordVocabulary:
    """Learns a byte-level BPE from text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator((line for block in blocks for line in StringIO(block)), trainer)
    return SubwordVocabulary(tokenizer.to_str())
