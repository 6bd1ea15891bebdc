"""Learning a WordPiece vocabulary from text."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmrecipes.data.tokenizers.wordpiece import SPECIAL, WordPiece, wordpiece_tokenizer

# Rare characters of other scripts would take the place of words.
_ALPHABET = 1000


def train_wordpiece(texts: Sequence[str], vocab_size: int, lower_case: bool = True) -> WordPiece:
    """Learns a vocabulary from texts; the same texts give the same vocabulary.

    Args:
        texts: to learn from.
        vocab_size: maximum tokens; fewer if the texts have fewer that occur twice.
        lower_case: whether text is lower-cased.

    Raises:
        ValueError: if the characters of the texts alone are more than vocab_size.
    """
    from tokenizers import trainers

    tokenizer = wordpiece_tokenizer(dict(zip(SPECIAL, range(len(SPECIAL)), strict=True)), lower_case, None)
    alphabet = _alphabet(texts, tokenizer.normalizer)
    # Given explicitly, since learned single characters would be numbered in the order of the threads.
    fixed = [*SPECIAL, *alphabet, *(f"##{character}" for character in alphabet if _within_words(character))]
    if len(fixed) > vocab_size:
        raise ValueError(
            f"data.wordpiece.vocab_size is {vocab_size}, but the characters alone are {len(fixed)} tokens; "
            f"it must be {len(fixed)} or more"
        )
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=fixed,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    ids = tokenizer.get_vocab()
    return WordPiece(sorted(ids, key=ids.__getitem__), lower_case=lower_case)


def _alphabet(texts: Sequence[str], normalizer: Any) -> list[str]:
    """The most frequent normalized characters, by code point."""
    counts: NDArray[Any] = np.zeros(0x110000, dtype=np.int64)
    for text in texts:
        points = np.frombuffer(normalizer.normalize_str(text).encode("utf-32-le"), dtype=np.uint32)
        distinct, numbers = np.unique(points, return_counts=True)
        counts[distinct] += numbers
    frequent = np.argsort(-counts, kind="stable")[:_ALPHABET]
    return sorted(chr(i) for i in frequent.tolist() if counts[i] and not chr(i).isspace())


def _within_words(character: str) -> bool:
    """Whether a character can occur inside a word: punctuation and Chinese characters are words themselves."""
    ascii_sign = character.isascii() and not character.isalnum()
    chinese = "CJK" in unicodedata.name(character, "")
    return not (ascii_sign or chinese or unicodedata.category(character).startswith("P"))
