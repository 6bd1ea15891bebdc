"""SentencePiece models as protocol buffers: parsed from bytes, or built from pieces and scores."""

from __future__ import annotations

import base64
import re
from collections.abc import Container, Iterable
from typing import Any

NORMAL, UNKNOWN, CONTROL, UNUSED, BYTE = 1, 2, 3, 5, 6
"""Types of pieces, as sentencepiece_model.proto numbers them."""
FLAGS = ("add_dummy_prefix", "remove_extra_whitespaces", "escape_whitespaces")
"""What a model does to white space besides its normalization; all true for mT5."""
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


def model_of(
    pieces: Iterable[tuple[str, float]],
    charsmap: bytes | None = None,
    *,
    byte_fallback: bool = False,
    unknown: int = 2,
    control: Container[str] = ("<pad>", "</s>"),
    **flags: bool,
) -> bytes:
    """A unigram model in the format of a `.model` file.

    Args:
        pieces: pieces with their log-probabilities, in the order of their ids.
        charsmap: the normalization, as SentencePiece compiles it, empty for none; left out, that of mT5 (nmt_nfkc).
        byte_fallback: whether unknown characters are encoded as bytes.
        unknown: id of the piece for what is unknown.
        control: pieces that no text matches.
        flags: those of FLAGS that differ from mT5's.
    """
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    proto = ModelProto()
    for i, (piece, score) in enumerate(pieces):
        kind = UNKNOWN if i == unknown else CONTROL if piece in control else NORMAL
        proto.pieces.add(piece=piece, score=score, type=kind)
    proto.trainer_spec.byte_fallback = byte_fallback
    normalize_as_mt5(proto)
    if charsmap is not None:
        proto.normalizer_spec.name = "custom" if charsmap else "identity"
        proto.normalizer_spec.precompiled_charsmap = charsmap
    for name, value in flags.items():
        setattr(proto.normalizer_spec, name, value)
    mark_bytes(proto)
    return bytes(proto.SerializeToString())


def normalize_as_mt5(proto: Any) -> None:
    """Sets the normalization that mT5 was published with."""
    proto.normalizer_spec.ParseFromString(_spec("nmt_nfkc"))


def charsmap_of(rule: str) -> bytes:
    """The compiled normalization of one of SentencePiece's rules, such as nfkc."""
    from sentencepiece.sentencepiece_model_pb2 import NormalizerSpec

    return bytes(NormalizerSpec.FromString(_spec(rule)).precompiled_charsmap)


def _spec(rule: str) -> bytes:
    from sentencepiece import SentencePieceNormalizer

    return bytes(SentencePieceNormalizer(rule_name=rule).serialized_normalizer_spec())


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
