"""SentencePiece models as protocol buffers: parsed from bytes, or built from pieces and scores."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from typing import Any

NORMAL, UNKNOWN, CONTROL, UNUSED, BYTE = 1, 2, 3, 5, 6
"""Types of pieces, as sentencepiece_model.proto numbers them."""
_UNIGRAM = 1
_BYTES = 256
_BYTE_NAME = re.compile("<0x[0-9A-F]{2}>")


def parse(model: bytes) -> Any:
    """The message in a `.model` file.

    Raises:
        ValueError: if it is not a unigram model.
    """
    from google.protobuf.message import DecodeError
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    proto = ModelProto()
    try:
        proto.ParseFromString(model)
    except DecodeError as error:
        raise ValueError(f"it is not a SentencePiece model, or is truncated ({error})") from None
    if not proto.pieces:
        raise ValueError("it is not a SentencePiece model: it has no pieces")
    if proto.trainer_spec.model_type != _UNIGRAM:
        raise ValueError("it is a SentencePiece model of another kind; it must be a unigram model, as mT5's is")
    return proto


def model_of(pieces: Iterable[tuple[str, float]], charsmap: bytes = b"", *, byte_fallback: bool = False) -> bytes:
    """A unigram model in the format of a `.model` file.

    Args:
        pieces: pieces with their log-probabilities, in the order of their ids; <pad>, </s> and <unk> first.
        charsmap: the normalization, as SentencePiece compiles it; left out, that of mT5 (nmt_nfkc).
        byte_fallback: whether unknown characters are encoded as bytes.
    """
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    proto = ModelProto()
    for i, (piece, score) in enumerate(pieces):
        proto.pieces.add(piece=piece, score=score, type=(CONTROL, CONTROL, UNKNOWN)[i] if i < 3 else NORMAL)
    proto.trainer_spec.byte_fallback = byte_fallback
    normalize_as_mt5(proto)
    if charsmap:
        proto.normalizer_spec.name = "custom"
        proto.normalizer_spec.precompiled_charsmap = charsmap
    mark_bytes(proto)
    return bytes(proto.SerializeToString())


def normalize_as_mt5(proto: Any) -> None:
    """Sets the normalization that mT5 was published with."""
    from sentencepiece import SentencePieceNormalizer

    proto.normalizer_spec.ParseFromString(SentencePieceNormalizer(rule_name="nmt_nfkc").serialized_normalizer_spec())


def mark_bytes(proto: Any) -> bool:
    """Marks the pieces <0x00> to <0xFF> so that no text matches them: as bytes, or unused without byte_fallback.

    Returns:
        Whether all of them exist.
    """
    pieces = [piece for piece in proto.pieces if _BYTE_NAME.fullmatch(piece.piece)]
    for piece in pieces:
        piece.type = BYTE if proto.trainer_spec.byte_fallback else UNUSED
    return len(pieces) == _BYTES


def charsmap_text(proto: Any) -> str:
    """The compiled normalization in base64."""
    return base64.b64encode(proto.normalizer_spec.precompiled_charsmap).decode()
