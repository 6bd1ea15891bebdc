"""SentencePiece with sentinels, the vocabulary of T5 and mT5: read from a file or folder, or learned from text."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np

from lmrecipes.data.tokenizers.base import Ids, Vocabulary
from lmrecipes.data.tokenizers.spm_model import PieceModel

SENTINELS = 100
_MULTIPLE = 128
SENTINEL = re.compile(r"\u2581?<extra_id_(\d+)>")
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_PROBE = "Straße ÀÉ naïve, Ελληνικά 日本語 한국어 🙂"


class SentencePiece(Vocabulary):
    """Pieces of words by a unigram model, 100 sentinels of which the first has the last id, padded to x128.

    Ids are as published: 0 is padding, 1 the end of a text, 2 the unknown; then bytes, if there are any, and pieces.
    What a text spells like </s> or <extra_id_0> stays text.
    """

    kind = "sentencepiece"
    pad_id, eos_id, unk_id = 0, 1, 2

    def __init__(self, model: PieceModel) -> None:
        """Makes a vocabulary of pieces; sentinels among them must be the last, and are added where there are none.

        Raises:
            ValueError: for pieces in another order.
        """
        self.model = model
        n = len(model.pieces)
        while n and SENTINEL.fullmatch(model.pieces[n - 1][0]):
            n -= 1
        named = [int(SENTINEL.fullmatch(piece)[1]) for piece, _ in model.pieces[n:]]  # type: ignore[index]
        if named and named != list(range(len(named) - 1, -1, -1)):
            raise ValueError(f"the sentinels are in the order {named[:3]}...; <extra_id_0> must be the last piece")
        if any(SENTINEL.fullmatch(piece) for piece, _ in model.pieces[:n]):
            raise ValueError("sentinels stand between other pieces; they must be the last")
        if n <= self.unk_id or model.pieces[self.pad_id][0] != "<pad>" or model.pieces[self.eos_id][0] != "</s>":
            begin = ", ".join(piece for piece, _ in model.pieces[:3])
            raise ValueError(f"the first pieces are {begin}; they must be <pad>, </s> and <unk>")
        self.n_pieces = n
        """Tokens before the sentinels."""
        self.n_sentinels = len(named) or SENTINELS
        """How many sentinels there are."""
        self.unknown = self.unk_id
        self.tokenizer = _tokenizer(model, n)
        self._bytes = {i: int(found[1], 16) for i in range(n) if (found := _BYTE.fullmatch(model.pieces[i][0]))}
        self.spells = self.decode(self.encode(_PROBE)) == _PROBE

    @property
    def size(self) -> int:
        """Tokens, sentinels included, rounded up to a multiple of 128."""
        return -(-(self.n_pieces + self.n_sentinels) // _MULTIPLE) * _MULTIPLE

    @property
    def sentinels(self) -> Ids:
        """Ids of <extra_id_0>, <extra_id_1> and so on, which fall."""
        return np.arange(self.n_pieces + self.n_sentinels - 1, self.n_pieces - 1, -1, dtype=np.uint32)

    def sentinel(self, number: int) -> int:
        """Id of <extra_id_NUMBER>."""
        return self.n_pieces + self.n_sentinels - 1 - number

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without its end."""
        return [int(i) for i in self.tokenizer.encode(text, add_special_tokens=False).ids]

    def encode_inside(self, text: str) -> list[int]:
        """Ids of the rest of a text, whose first piece begins a word only if it is behind a space."""
        tokenizer = self.tokenizer if text[:1].isspace() else self._inside
        return [int(i) for i in tokenizer.encode(text, add_special_tokens=False).ids]

    @cached_property
    def _inside(self) -> Any:
        return _tokenizer(self.model, self.n_pieces, words_begin="never")

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each of several texts, without their ends."""
        return [found.ids for found in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def encode_block(self, text: str) -> Ids:
        """Ids of a block of lines, each with its end."""
        lines = self.encode_batch(io.StringIO(text).readlines())
        return np.concatenate(
            [np.asarray([*ids, self.eos_id], dtype=np.uint32) for ids in lines] or [np.empty(0, np.uint32)]
        )

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; padding and the end of a text are nothing, sentinels their names."""
        text, run = "", bytearray()
        for i in ids:
            if i in self._bytes:
                run.append(self._bytes[i])
                continue
            text, run = text + run.decode("utf-8", "replace"), bytearray()
            text += self.piece(i) if i not in (self.pad_id, self.eos_id) else ""
        return (text + run.decode("utf-8", "replace")).replace("\u2581", " ").removeprefix(" ")

    def piece(self, i: int) -> str:
        """The piece of an id as it is published: `▁` for a space, <extra_id_0> for a sentinel."""
        if self.n_pieces <= i < self.n_pieces + self.n_sentinels:
            return f"<extra_id_{self.n_pieces + self.n_sentinels - 1 - i}>"
        return self.model.pieces[i][0] if i < self.n_pieces else ""

    def _content(self) -> dict[str, Any]:
        return {
            "pieces": [[piece, score] for piece, score in self.model.pieces],
            "charsmap": base64.b64encode(self.model.charsmap).decode(),
            "byte_fallback": self.model.byte_fallback,
        }

    @classmethod
    def of_content(cls, content: dict[str, Any]) -> SentencePiece:
        """What `save` has written."""
        pieces = [(piece, score) for piece, score in content["pieces"]]
        return cls(PieceModel(pieces, base64.b64decode(content["charsmap"]), content["byte_fallback"]))

    def __reduce__(self) -> tuple[Any, ...]:
        return SentencePiece, (self.model,)


def _tokenizer(model: PieceModel, n: int, words_begin: Literal["always", "never"] = "always") -> Any:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    # No text has a space by the time it is looked up, so that these names are found in none.
    names = [(f" {piece}", 0.0) for piece, _ in model.pieces[:3]]
    made = Tokenizer(
        models.Unigram([*names, *model.pieces[3:n]], unk_id=SentencePiece.unk_id, byte_fallback=model.byte_fallback)
    )
    first = [normalizers.Precompiled(model.charsmap)] if model.charsmap else [normalizers.Nmt(), normalizers.NFKC()]
    made.normalizer = normalizers.Sequence([*first, normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip()])
    # Text that looks like the name of a byte stays text.
    apart = pre_tokenizers.Split(Regex("<(?=0x)"), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(prepend_scheme=words_begin), apart])
    return made
