"""Learning a unigram model of pieces from text, with SentencePiece's conventions, by the `tokenizers` package."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from lmrecipes.data.tokenizers.spm_model import PieceModel

_SPECIAL = ("<pad>", "</s>", "<unk>")
_BYTES = tuple(f"<0x{i:02X}>" for i in range(256))
_DIGITS = 4
# In no text.
_MARK = "\uf8ff"
# As in SentencePiece no piece has letters and digits, or either and a sign.
_WORDS = rf"▁?(?:[\p{{L}}\p{{M}}]+|\p{{N}}+|[^\p{{L}}\p{{M}}\p{{N}}▁{_MARK}]+){_MARK}?"


def learn_pieces(texts: Sequence[str], vocab_size: int, character_coverage: float) -> PieceModel:
    """Pieces of texts, with bytes for the characters that are too rare to be pieces.

    Of pieces that are equally good another one may be taken the next time: a vocabulary is learned once and kept.

    Args:
        texts: what to learn from.
        vocab_size: pieces at most, with the 3 special ones and the 256 bytes.
        character_coverage: share of the text's characters that become pieces.

    Raises:
        ValueError: if the characters alone are more than vocab_size.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    normalizer = normalizers.Sequence(
        [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip()]
    )
    normal = [normalizer.normalize_str(text) for text in texts]
    covered = covered_characters(normal, character_coverage)
    room = vocab_size - len(_SPECIAL) - len(_BYTES)
    # The space is written as a character of its own.
    if len(covered) + 1 > room:
        raise ValueError(
            f"data.sentencepiece.vocab_size is {vocab_size:,}, but the text has {len(covered):,} different characters; "
            f"{len(covered) + 1 + vocab_size - room:,} or more would do, or a smaller character_coverage"
        )
    rare = re.compile(f"[^{re.escape(covered)}\\s]") if covered else re.compile(r"\S")
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="always"), pre_tokenizers.Split(Regex(_WORDS), "isolated")]
    )
    trainer = trainers.UnigramTrainer(
        vocab_size=room + 1, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
    )
    known = [rare.sub(" ", text) for text in normal]
    made.train_from_iterator(itertools.chain(known, _marked(known, made.pre_tokenizer.pre_tokenize_str)), trainer)
    model = json.loads(made.to_str())["model"]["vocab"]
    # But for <unk>, the first.
    scores = [(str(piece), round(float(score), _DIGITS)) for piece, score in model[1:] if _MARK not in piece]
    learned = sorted(scores, key=lambda x: (-x[1], x[0]))
    fixed = [(name, 0.0) for name in (*_SPECIAL, *_BYTES)]
    return PieceModel([*fixed, *learned], b"", True)


def _marked(texts: Sequence[str], split: Callable[[str], list[tuple[str, Any]]]) -> list[str]:
    """Words that come more than once, each with a mark behind it.

    The trainer takes for a piece only what it finds in two different words, however often it comes in one.
    """
    counts = Counter(word for text in texts for word in text.split())
    words: Counter[str] = Counter()
    for word, number in counts.items():
        words[split(word)[0][0]] += number
    return [word[1:] + _MARK for word, number in words.items() if number > 1]


def covered_characters(texts: Sequence[str], coverage: float) -> str:
    """The most frequent characters, which make up this share of the text; white space left out."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    for character in [c for c in counts if c.isspace()]:
        del counts[character]
    wanted, found = coverage * counts.total(), 0
    chosen = []
    for character, number in sorted(counts.items(), key=lambda x: (-x[1], x[0])):
        if found >= wanted:
            break
        chosen.append(character)
        found += number
    return "".join(chosen)
