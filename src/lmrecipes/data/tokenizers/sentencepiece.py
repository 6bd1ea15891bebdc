"""SentencePiece with sentinels, the vocabulary of T5 and mT5, by the `sentencepiece` package."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lmrecipes.data.tokenizers.base import Ids, Vocabulary
from lmrecipes.data.tokenizers.spm_proto import CONTROL, UNKNOWN, UNUSED, charsmap_text, mark_bytes, parse

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

SENTINELS = 100
_MULTIPLE = 128
SENTINEL = re.compile(r"\u2581?<extra_id_(\d+)>")
_SPECIAL = ("<pad>", "</s>", "<unk>")
_PROBE = "Straße ÀÉ naïve, Ελληνικά 日本語 한국어 🙂"


class SentencePiece(Vocabulary):
    """Pieces of words by a unigram model, 100 sentinels of which the first has the last id, padded to x128.

    Ids are as published: 0 is padding, 1 the end of a text, 2 the unknown; then bytes, if there are any, and pieces.
    What a text spells like </s> or <extra_id_0> stays text.
    """

    kind = "sentencepiece"
    pad_id, eos_id, unk_id = 0, 1, 2

    def __init__(self, model: bytes) -> None:
        """Makes a vocabulary of a model; sentinels in it must be the last, and are added where there are none.

        Args:
            model: content of a `.model` file of SentencePiece.

        Raises:
            ValueError: for what is no unigram model, or pieces in another order.
        """
        self.model = model
        proto = parse(model)
        names = [piece.piece for piece in proto.pieces]
        n = len(names)
        while n and SENTINEL.fullmatch(names[n - 1]):
            n -= 1
        named = [int(SENTINEL.fullmatch(name)[1]) for name in names[n:]]  # type: ignore[index]
        if named and named != list(range(len(named) - 1, -1, -1)):
            raise ValueError(f"the sentinels are in the order {named[:3]}...; <extra_id_0> must be the last piece")
        if any(SENTINEL.fullmatch(name) for name in names[:n]):
            raise ValueError("sentinels stand between other pieces; they must be the last")
        if tuple(names[:3]) != _SPECIAL:
            raise ValueError(f"the first pieces are {', '.join(names[:3])}; they must be <pad>, </s> and <unk>")
        self.n_pieces = n
        """Tokens before the sentinels."""
        self.n_sentinels = len(named) or SENTINELS
        """How many sentinels there are."""
        self.unknown = self.unk_id
        self._processor = self._prepare(proto)
        self.spells = self.decode(self.encode(_PROBE)) == _PROBE

    def _prepare(self, proto: Any) -> SentencePieceProcessor:
        """A processor that never finds special pieces and sentinels in a text, whatever the file says of them."""
        del proto.pieces[self.n_pieces :]
        for piece, kind in zip(proto.pieces, (CONTROL, CONTROL, UNKNOWN), strict=False):
            piece.type = kind
        mark_bytes(proto)
        for number in range(self.n_sentinels - 1, -1, -1):
            proto.pieces.add(piece=f"<extra_id_{number}>", score=0.0, type=UNUSED)
        proto.trainer_spec.unk_surface = _SPECIAL[self.unk_id]
        return _processor(proto)

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

    def _before(self, text: str) -> str:
        """What is done to a text before the model normalizes it."""
        return text

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without its end."""
        found: list[int] = self._processor.encode(self._before(text))
        return found

    def encode_inside(self, text: str) -> list[int]:
        """Ids of the rest of a text, whose first piece begins a word only if it is behind a space."""
        processor = self._processor if text[:1].isspace() else self._inside
        found: list[int] = processor.encode(self._before(text))
        return found

    @cached_property
    def _inside(self) -> SentencePieceProcessor:
        proto = parse(self._processor.serialized_model_proto())
        proto.normalizer_spec.add_dummy_prefix = False
        return _processor(proto)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each of several texts, without their ends."""
        found: list[list[int]] = self._processor.encode([self._before(text) for text in texts])
        return found

    def encode_block(self, text: str) -> Ids:
        """Ids of a block of lines, each with its end."""
        lines = self.encode_batch(io.StringIO(text).readlines())
        return np.concatenate(
            [np.asarray([*ids, self.eos_id], dtype=np.uint32) for ids in lines] or [np.empty(0, np.uint32)]
        )

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; padding and the end of a text are nothing, sentinels their names."""
        n = self.n_pieces + self.n_sentinels
        return str(self._decoder.decode([int(i) for i in ids if i < n]))

    @cached_property
    def _decoder(self) -> SentencePieceProcessor:
        """Reads bytes that it never writes too: transformers' tokenizer.json of mT5 says that there are none."""
        proto = parse(self._processor.serialized_model_proto())
        if proto.trainer_spec.byte_fallback:
            return self._processor
        proto.trainer_spec.byte_fallback = True
        return _processor(proto) if mark_bytes(proto) else self._processor

    def piece(self, i: int) -> str:
        """The piece of an id as it is published: `▁` for a space, <extra_id_0> for a sentinel."""
        return self._processor.id_to_piece(int(i)) if i < self.n_pieces + self.n_sentinels else ""

    def write_published(self, folder: Path) -> None:
        """Writes spiece.model and tokenizer_config.json, of which transformers makes a T5Tokenizer with these ids."""
        proto = parse(self._processor.serialized_model_proto())
        del proto.pieces[self.n_pieces :]
        (folder / "spiece.model").write_bytes(proto.SerializeToString())
        about = {"tokenizer_class": "T5Tokenizer", "extra_ids": self.n_sentinels}
        (folder / "tokenizer_config.json").write_text(json.dumps(about, indent=2) + "\n")

    def _content(self) -> dict[str, Any]:
        return {"model": base64.b64encode(self.model).decode()}

    @cached_property
    def _digest(self) -> str:
        # Of the pieces, their scores and the normalization: earlier versions gave the same.
        proto = parse(self.model)
        content = {
            "pieces": [[piece.piece, piece.score] for piece in proto.pieces],
            "charsmap": charsmap_text(proto),
            "byte_fallback": proto.trainer_spec.byte_fallback,
        }
        return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()[:16]

    @classmethod
    def of_content(cls, content: dict[str, Any]) -> SentencePiece:
        """What `save` has written."""
        return cls(base64.b64decode(content["model"]))

    def __reduce__(self) -> tuple[Any, ...]:
        return self.of_content, (self._content(),)


def _processor(proto: Any) -> SentencePieceProcessor:
    from sentencepiece import SentencePieceProcessor

    try:
        return SentencePieceProcessor(model_proto=proto.SerializeToString())
    except RuntimeError as error:
        raise ValueError(f"the sentencepiece package refuses the model: {error}") from None
