"""Reading what SentencePiece writes: pieces, scores and normalization of a `.model` file (a protocol buffer)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_UNIGRAM = 1
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5


@dataclass(frozen=True)
class PieceModel:
    """A unigram model of pieces."""

    pieces: list[tuple[str, float]]
    """Pieces with their log-probabilities, in the order of their ids."""
    charsmap: bytes = b""
    """Normalization, as SentencePiece compiles it; empty: none."""
    byte_fallback: bool = False
    """Whether what no piece has is spelled in bytes."""


def read_model(path: Path) -> PieceModel:
    """Reads a `.model` file.

    Raises:
        ValueError: for what is no unigram model.
    """
    pieces: list[tuple[str, float]] = []
    charsmap, kind, fallback = b"", _UNIGRAM, False
    try:
        for field, value in _fields(path.read_bytes()):
            if field == 1:
                about = dict(_fields(_as_bytes(value)))
                score = struct.unpack("<f", _as_bytes(about[2]))[0] if 2 in about else 0.0
                pieces.append((_as_bytes(about[1]).decode("utf-8"), score))
            elif field == 2:
                trained = dict(_fields(_as_bytes(value)))
                kind, fallback = int(trained.get(3, _UNIGRAM)), bool(trained.get(35, 0))
            elif field == 3:
                charsmap = _as_bytes(dict(_fields(_as_bytes(value))).get(2, b""))
    except (IndexError, KeyError, UnicodeDecodeError, struct.error, TypeError) as error:
        raise ValueError(f"{path} is no SentencePiece model, or is cut short ({error!r})") from None
    if not pieces:
        raise ValueError(f"{path} is no SentencePiece model: it has no piece")
    if kind != _UNIGRAM:
        raise ValueError(f"{path} is a SentencePiece model of another kind; it must be a unigram model, as mT5's is")
    return PieceModel(pieces, charsmap, fallback)


def _as_bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("a number where bytes belong")
    return value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and values of the fields of a message."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        if kind == _BYTES:
            size, at = _varint(data, at)
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            size = 8 if kind == _EIGHT_BYTES else 4
        else:
            raise KeyError(kind)
        if at + size > len(data):
            raise IndexError("a field goes beyond the end")
        yield tag >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
