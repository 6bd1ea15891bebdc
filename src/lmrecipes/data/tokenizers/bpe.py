"""Subwords by a Hugging Face tokenizer: GPT-2's, any other, or a byte-level BPE learned from the corpus."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from io import StringIO
from typing import Any

import numpy as np

from lmrecipes.data.tokenizers.base import Ids, Vocabulary

# No text has it: a character that Unicode assigns to nothing.
_STAND_IN = "\U0010ffff"
_PROBE = "Straße ÀÉ naïve, Ελληνικά 日本語 한국어 🙂"


class SubwordVocabulary(Vocabulary):
    """A Hugging Face tokenizer: GPT-2's, any other, or a BPE learned from the corpus.

    Truncation and padding, which a tokenizer keeps from its last use, are switched off.
    """

    kind = "subword"
    origin = "of the run"
    """Name by which it was loaded, for messages."""

    def __init__(self, tokenizer_json: str) -> None:
        from tokenizers import Tokenizer

        self._json = tokenizer_json
        given = Tokenizer.from_str(tokenizer_json)
        # Padded to a multiple of 8 as published, which suits matrix units.
        self._size = -(-given.get_vocab_size() // 8) * 8
        self._tokenizer, self._stand_in = _with_unknown(given)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        try:
            # Lower-casing, dropped accents and unknown characters lose information; a leading space does not.
            self.spells = self.decode(self.encode(_PROBE)).strip() == _PROBE
        except ValueError:
            self.spells = False

    @property
    def size(self) -> int:
        """Tokens, rounded up to a multiple of 8."""
        return self._size

    def encode_block(self, text: str) -> Ids:
        """Ids of a block, line by line.

        Raises:
            ValueError: naming the first text that is not in the vocabulary, if that has no unknown token.
        """
        lines = io.StringIO(text).readlines()  # str.splitlines also splits at characters other than newlines
        try:
            encoded = self._tokenizer.encode_batch(lines, add_special_tokens=False)
        except Exception as error:  # the tokenizers package raises nothing more precise
            raise ValueError(f"the tokenizer {self.origin} cannot encode the text: {error}") from None
        ids = np.concatenate([np.asarray(e.ids, dtype=np.uint32) for e in encoded] or [np.empty(0, np.uint32)])
        if self._stand_in is not None and (ids == self._stand_in).any():
            line, encoding = next(pair for pair in zip(lines, encoded, strict=True) if self._stand_in in pair[1].ids)
            begin, end = encoding.offsets[encoding.ids.index(self._stand_in)]
            raise ValueError(f"{line[begin:end]!r} is not in the tokenizer {self.origin}, which has no unknown token")
        return ids

    def encode(self, text: str) -> list[int]:
        """Ids of typed text, after a newline."""
        return [int(i) for i in self.encode_block("\n" + text)]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def _content(self) -> dict[str, Any]:
        return {"tokenizer": self._json}


def _with_unknown(tokenizer: Any) -> tuple[Any, int | None]:
    """The tokenizer, and the id of an unknown token that it was given if it had none.

    Without one a BPE drops what it does not know in silence, unless it knows all bytes. The ids of all other tokens
    stay as they are.
    """
    from tokenizers import Tokenizer, pre_tokenizers

    content = json.loads(tokenizer.to_str())
    model, splitter = content["model"], json.dumps(content["pre_tokenizer"])
    if model["type"] not in ("BPE", "WordLevel", "WordPiece") or model.get("unk_token") in model["vocab"]:
        return tokenizer, None
    if '"ByteLevel"' in splitter and model["vocab"].keys() >= set(pre_tokenizers.ByteLevel.alphabet()):
        return tokenizer, None
    # Among the model's tokens those added to it keep their ids, which would be counted anew otherwise.
    model["vocab"] |= {added["content"]: added["id"] for added in content["added_tokens"]}
    stand_in = max(model["vocab"].values(), default=-1) + 1
    model["unk_token"] = _STAND_IN
    model["vocab"][_STAND_IN] = stand_in
    return Tokenizer.from_str(json.dumps(content)), stand_in


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
