"""Reading a file of text in bounded blocks, however long its lines are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_SIZE = 1 << 15  # what fits a processor's cache is split and counted faster than what does not


def text_blocks(file: Any, size: int = _SIZE) -> Iterator[bytes]:
    """Bytes of an open file, in blocks of whole lines of about `size`.

    A line longer than a block is cut before a space, or, without one for two blocks, between two characters.
    """
    rest = b""
    while read := file.read(size):
        data = rest + read
        cut = data.rfind(b"\n") + 1 or max(data.rfind(b" "), 0)
        if not cut and len(data) > 2 * size:
            cut = _whole_characters(data)
        if not cut:
            rest = data
            continue
        yield data[:cut]
        rest = data[cut:]
    if rest:
        yield rest


def _whole_characters(data: bytes) -> int:
    """Length of the data without an incomplete last character."""
    for back in range(1, min(4, len(data))):
        if data[-back] & 0xC0 == 0xC0:  # the first byte of a character of several
            return len(data) - back
        if data[-back] < 0x80:
            break
    return len(data)
