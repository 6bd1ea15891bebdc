"""What a network wrote, as texts."""

from __future__ import annotations

from collections.abc import Iterator

from lmrecipes.batches import WrittenTexts
from lmrecipes.data.tokenizers.sentencepiece import SentencePiece


def written(output: WrittenTexts, vocabulary: SentencePiece) -> Iterator[tuple[int, str, float]]:
    """Number of each question, the text up to its end, and its score; rows that only fill up are left out."""
    rows = zip(output.questions.tolist(), output.tokens.tolist(), output.scores.float().tolist(), strict=True)
    for number, tokens, score in rows:
        if number >= 0:
            end = tokens.index(vocabulary.eos_id) if vocabulary.eos_id in tokens else len(tokens)
            yield number, vocabulary.decode(tokens[:end]).strip(), score
