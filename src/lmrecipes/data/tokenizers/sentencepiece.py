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
from lmrecipes.data.tokenizers.spm_proto import CONTROL, FLAGS, UNKNOWN, UNUSED, charsmap_text, mark_bytes, parse

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

SENTINELS = 100
_MULTIPLE = 128
SENTINEL = re.compile(r"\u2581?<extra_id_(\d+)>")
# transformers' T5Tokenizer reads it from no file.
_T5_UNKNOWN = 2
_PROBE = "Straße ÀÉ naïve, Ελληνικά 日本語 한국어 🙂"


class SentencePiece(Vocabulary):
    """Pieces of a unigram model, then 100 sentinels of which the first has the last id, padded to a multiple of 128.

    Ids are those of the model: as mT5 is published, 0 is <pad>, 1 </s>, 2 <unk>; then bytes, if any, and pieces. </s>
    or <extra_id_0> in a text is text, not the special token.
    """

    kind = "sentencepiece"

    def __init__(self, model: bytes) -> None:
        """Creates a vocabulary from a model; sentinels must be its last pieces, and are added if it has none.

        Args:
            model: content of a `.model` file of SentencePiece.

        Raises:
            ValueError: if it is not a unigram model, its sentinels are in another order, or it has no piece for
                padding, for the end of a text or for what is unknown.
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
        self.pad_id, self.eos_id, self.unk_id = _special(proto, names[:n])
        self.n_pieces = n
        """Tokens before the sentinels."""
        self.n_sentinels = len(named) or SENTINELS
        """How many sentinels there are."""
        self.unknown = self.unk_id
        self._processor = self._prepare(proto)
        self.spells = self.decode(self.encode(_PROBE)) == _PROBE

    def _prepare(self, proto: Any) -> SentencePieceProcessor:
        """A processor that never finds special pieces and sentinels in a text, whatever their types in the file."""
        del proto.pieces[self.n_pieces :]
        for special, kind in ((self.pad_id, CONTROL), (self.eos_id, CONTROL), (self.unk_id, UNKNOWN)):
            proto.pieces[special].type = kind
        mark_bytes(proto)
        for number in range(self.n_sentinels - 1, -1, -1):
            proto.pieces.add(piece=f"<extra_id_{number}>", score=0.0, type=UNUSED)
        proto.trainer_spec.unk_surface = proto.pieces[self.unk_id].piece
        return _processor(proto)

    @property
    def size(self) -> int:
        """Tokens, sentinels included, rounded up to a multiple of 128."""
        return -(-(self.n_pieces + self.n_sentinels) // _MULTIPLE) * _MULTIPLE

    @property
    def sentinels(self) -> Ids:
        """Ids of <extra_id_0>, <extra_id_1> and so on, descending."""
        return np.arange(self.n_pieces + self.n_sentinels - 1, self.n_pieces - 1, -1, dtype=np.uint32)

    def sentinel(self, number: int) -> int:
        """Id of <extra_id_NUMBER>."""
        return self.n_pieces + self.n_sentinels - 1 - number

    def _before(self, text: str) -> str:
        """Preprocesses a text before the model normalizes it."""
        return text

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without </s>."""
        ids: list[int] = self._processor.encode(self._before(text))
        return ids

    def encode_inside(self, text: str) -> list[int]:
        """Ids of the rest of a text, whose first piece begins a word only after a space."""
        processor = self._processor if text[:1].isspace() else self._inside
        ids: list[int] = processor.encode(self._before(text))
        return ids

    @cached_property
    def _inside(self) -> SentencePieceProcessor:
        proto = parse(self._processor.serialized_model_proto())
        proto.normalizer_spec.add_dummy_prefix = False
        return _processor(proto)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each of several texts, without </s>."""
        ids: list[list[int]] = self._processor.encode([self._before(text) for text in texts])
        return ids

    def encode_block(self, text: str) -> Ids:
        """Ids of a block of lines, each with </s>."""
        lines = self.encode_batch(io.StringIO(text).readlines())
        return np.concatenate(
            [np.asarray([*ids, self.eos_id], dtype=np.uint32) for ids in lines] or [np.empty(0, np.uint32)]
        )

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; <pad> and </s> are dropped, sentinels are their names."""
        n = self.n_pieces + self.n_sentinels
        return str(self._decoder.decode([int(i) for i in ids if i < n]))

    @cached_property
    def _decoder(self) -> SentencePieceProcessor:
        """Also decodes bytes that it never encodes: transformers' tokenizer.json of mT5 does not mark them."""
        proto = parse(self._processor.serialized_model_proto())
        if proto.trainer_spec.byte_fallback:
            return self._processor
        proto.trainer_spec.byte_fallback = True
        return _processor(proto) if mark_bytes(proto) else self._processor

    def piece(self, i: int) -> str:
        """The piece of an id as published: `▁` for a space, <extra_id_0> for a sentinel."""
        return self._processor.id_to_piece(int(i)) if i < self.n_pieces + self.n_sentinels else ""

    def write_published(self, folder: Path) -> None:
        """Writes spiece.model and tokenizer_config.json, which transformers loads as a T5Tokenizer with these ids.

        Raises:
            ValueError: if it would load other ids.
        """
        if self.unk_id != _T5_UNKNOWN:
            raise ValueError(
                f"--format hf: the unknown piece of the vocabulary is number {self.unk_id}, but transformers takes "
                f"number {_T5_UNKNOWN} of a T5 vocabulary for it; --format state_dict writes the weights"
            )
        proto = parse(self._processor.serialized_model_proto())
        del proto.pieces[self.n_pieces :]
        (folder / "spiece.model").write_bytes(proto.SerializeToString())
        config = {"tokenizer_class": "T5Tokenizer", "extra_ids": self.n_sentinels}
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")

    def _content(self) -> dict[str, Any]:
        return {"model": base64.b64encode(self.model).decode()}

    @cached_property
    def _digest(self) -> str:
        # Of pieces, scores and normalization, as in earlier versions.
        proto = parse(self.model)
        content = {
            "pieces": [[piece.piece, piece.score] for piece in proto.pieces],
            "charsmap": charsmap_text(proto),
            "byte_fallback": proto.trainer_spec.byte_fallback,
        }
        # What earlier versions could not read is named only where it differs from theirs.
        content |= {name: False for name in FLAGS if not getattr(proto.normalizer_spec, name)}
        if self.unk_id != _T5_UNKNOWN:
            content["unknown"] = self.unk_id
        return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()[:16]

    @classmethod
    def of_content(cls, content: dict[str, Any]) -> SentencePiece:
        """What `save` has written."""
        return cls(base64.b64decode(content["model"]))

    def __reduce__(self) -> tuple[Any, ...]:
        return self.of_content, (self._content(),)


def _special(proto: Any, names: Sequence[str]) -> tuple[int, int, int]:
    """Ids of the padding, of the end of a text and of what is unknown, before anything is known of the types.

    Raises:
        ValueError: naming the missing one.
    """
    spec = proto.trainer_spec
    unknown = next((i for i, piece in enumerate(proto.pieces[: len(names)]) if piece.type == UNKNOWN), None)
    wanted = {
        "padding": (spec.pad_piece, None),
        "the end of a text": (spec.eos_piece, None),
        "what is unknown": (spec.unk_piece, unknown),
    }
    ids = []
    for purpose, (name, known) in wanted.items():
        if known is None and name not in names:
            raise ValueError(f"the model has no piece {name}, for {purpose}; mT5 and T5 need one")
        ids.append(names.index(name) if known is None else known)
    return ids[0], ids[1], ids[2]


def _processor(proto: Any) -> SentencePieceProcessor:
    from sentencepiece import SentencePieceProcessor

    try:
        return SentencePieceProcessor(model_proto=proto.SerializeToString())
    except RuntimeError as error:
        raise ValueError(f"the sentencepiece package refuses the model: {error}") from None
