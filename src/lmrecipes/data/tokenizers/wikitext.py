"""Splitting a typed sentence into words the way WikiText is split."""

from __future__ import annotations

import re

_RULES = [
    (re.compile(r"(?<=\d)([.,])(?=\d)"), r" @\1@ "),
    (re.compile(r"(?<=\w)-(?=\w)"), " @-@ "),
    (re.compile(r"(?i)\b(can)(not)\b"), r"\1 \2"),
    (re.compile(r"(?i)(?<=\w)(n't|'s|'m|'d|'ll|'re|'ve)\b"), r" \1"),
    (re.compile(r"([^\w\s@.,'\-<>])"), r" \1 "),
    (re.compile(r"(?<!@)([,])(?!@)"), r" \1 "),
    (re.compile(r"(?<=[\w)\]][\w)\]])\.(?=\s|$)"), " ."),
    (re.compile(r"(^|\s)'(?=\w)"), r"\1' "),
    (re.compile(r"(?<=\w)'(?=\s|$)"), " '"),
]


def split_words(text: str) -> list[str]:
    """Words of a sentence with punctuation apart, `3,000` as `3 @,@ 000` and `well-known` as `well @-@ known`."""
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text.split()
