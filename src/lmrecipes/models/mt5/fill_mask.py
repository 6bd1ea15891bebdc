"""Mask filling: the prompt, and the completion in its published format."""

from __future__ import annotations

import json
from typing import Any, Protocol

from lmrecipes.models.common.generation import Generated

BLANK = "<mask>"


class Pieces(Protocol):
    """A vocabulary with sentinels."""

    pad_id: int
    eos_id: int
    n_sentinels: int

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without its end."""

    def encode_inside(self, text: str) -> list[int]:
        """Ids of the rest of a text, which may begin within a word."""

    def decode(self, ids: Any) -> str:
        """Text of ids."""

    def piece(self, i: int) -> str:
        """The piece of an id."""

    def sentinel(self, number: int) -> int:
        """Id of a sentinel, from 0."""


def masked(text: str, vocabulary: Pieces, *, input_eos: bool = False) -> list[int]:
    """Tokens of a text with a sentinel in place of each blank, the first one's first.

    Args:
        text: with `<mask>` for a blank.
        vocabulary: with sentinels.
        input_eos: whether the end of a text stands behind it, as in Google's pretraining and not in NeMo's.

    Raises:
        ValueError: for more blanks than sentinels, or nothing else.
    """
    parts = text.split(BLANK)
    if len(parts) - 1 > vocabulary.n_sentinels:
        raise ValueError(
            f"the text has {len(parts) - 1} blanks {BLANK}; the vocabulary has sentinels for {vocabulary.n_sentinels}"
        )
    ids: list[int] = []
    for number, part in enumerate(parts):
        ids += [vocabulary.sentinel(number - 1)] if number else []
        if part.strip():
            ids += vocabulary.encode_inside(part) if number else vocabulary.encode(part)
    if len(ids) < len(parts):
        raise ValueError(f"the text has nothing but blanks; write some words around {BLANK}")
    return [*ids, vocabulary.eos_id] if input_eos else ids


def completion(text: str, vocabulary: Pieces, written: Generated) -> str:
    """prompt, completion with text and tokens (id, piece, log-probability), and masked_input, as JSON in one line."""
    ids = [i for i in written.tokens[0].tolist() if i != vocabulary.pad_id]
    log_probs = written.log_probs[0, : len(ids)].tolist()
    tokens = [[i, vocabulary.piece(i), round(p, 6)] for i, p in zip(ids, log_probs, strict=True)]
    shape = {
        "prompt": text,
        "completion": {"text": vocabulary.decode(ids).strip(), "tokens": tokens},
        "masked_input": vocabulary.decode(masked(text, vocabulary)).strip(),
    }
    return json.dumps(shape, ensure_ascii=False)
