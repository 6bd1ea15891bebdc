"""What a document becomes when it is prepared, as its vocabulary has it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence

from lmrecipes.data.corpora.sentence_splitter import split_sentences
from lmrecipes.data.objectives.electra_segments import build_segments, with_special_tokens
from lmrecipes.data.tokenizers.base import Vocabulary
from lmrecipes.data.tokenizers.sentencepiece import SentencePiece
from lmrecipes.data.tokenizers.wordpiece import WordPiece
from lmrecipes.data.tokenizers.wordpiece_cache import WordCache

Make = Callable[[Sequence[str], random.Random], Iterable[tuple[Sequence[int], int]]]


def making(vocabulary: Vocabulary, seq_len: int) -> Make:
    """A function from paragraphs of a document to examples: tokens, and where the second segment begins.

    WordPiece has examples of two segments between its marks, SentencePiece whole documents as they are.

    Raises:
        ValueError: for another vocabulary.
    """
    if isinstance(vocabulary, WordPiece):
        words = WordCache(vocabulary)

        def segments(paragraphs: Sequence[str], generator: random.Random) -> Iterator[tuple[Sequence[int], int]]:
            sentences = (words.encode(sentence) for line in paragraphs for sentence in split_sentences(line))
            for found in build_segments(sentences, seq_len, generator):
                yield with_special_tokens(found, vocabulary.cls_id, vocabulary.sep_id)

        return segments
    if isinstance(vocabulary, SentencePiece):

        def document(paragraphs: Sequence[str], generator: random.Random) -> Iterator[tuple[Sequence[int], int]]:
            (tokens,) = vocabulary.encode_batch(["\n".join(paragraphs)])
            if tokens:
                yield tokens, len(tokens)

        return document
    raise ValueError(
        f"documents are prepared for WordPiece and SentencePiece, not a vocabulary of kind {vocabulary.kind}"
    )
