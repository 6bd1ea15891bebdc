"""WordPiece, the vocabulary of BERT and ELECTRA: read from a file or folder, or learned from text."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmrecipes.data.tokenizers.base import Ids, Vocabulary

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class WordPiece(Vocabulary):
    """Words, and pieces of words that begin with ##; [MASK] in a text is text, not the special token."""

    kind = "wordpiece"
    spells = False

    def __init__(
        self,
        tokens: Sequence[str],
        *,
        lower_case: bool = True,
        strip_accents: bool | None = None,
        chinese_chars: bool = True,
    ) -> None:
        """Creates a vocabulary from tokens in the order of their ids.

        Args:
            tokens: the tokens, [PAD], [UNK], [CLS], [SEP] and [MASK] among them.
            lower_case: whether text is lower-cased.
            strip_accents: whether accents are removed; left out, if text is lower-cased.
            chinese_chars: whether every Chinese character is a word.

        Raises:
            ValueError: for a missing special token, or a duplicate token.
        """
        self.tokens = list(tokens)
        self.lower_case = lower_case
        self.strip_accents = strip_accents
        self.chinese_chars = chinese_chars
        self._ids = {token: i for i, token in enumerate(self.tokens)}
        if missing := [token for token in SPECIAL if token not in self._ids]:
            raise ValueError(f"the WordPiece vocabulary has no {', '.join(missing)}; it needs {' '.join(SPECIAL)}")
        if len(self._ids) < len(self.tokens):
            duplicate = next(token for i, token in enumerate(self.tokens) if self._ids[token] != i)
            raise ValueError(f"the WordPiece vocabulary has the token {duplicate!r} twice")
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (self._ids[token] for token in SPECIAL)
        self.unknown = self.unk_id
        self.tokenizer = wordpiece_tokenizer(self._ids, lower_case, strip_accents, chinese_chars)

    @property
    def size(self) -> int:
        """Different tokens."""
        return len(self.tokens)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without [CLS] and [SEP]."""
        return [int(i) for i in self.tokenizer.encode(text, add_special_tokens=False).ids]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each of several texts, without [CLS] and [SEP]."""
        return [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def encode_with_offsets(self, texts: Sequence[str]) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """Ids (tokens,) of each text, and first and last character (exclusive) of each token (tokens, 2)."""
        encodings = self.tokenizer.encode_batch(texts, add_special_tokens=False)
        return [(np.array(e.ids, np.uint32), np.array(e.offsets, np.int32).reshape(-1, 2)) for e in encodings]

    def encode_block(self, text: str) -> Ids:
        """Ids of a block of lines, without tokens for their ends."""
        encoded = self.encode_batch(io.StringIO(text).readlines())
        return np.concatenate([np.asarray(ids, dtype=np.uint32) for ids in encoded] or [np.empty(0, np.uint32)])

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids, pieces joined to words."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))

    @cached_property
    def fast(self) -> Any:
        """The same as a tokenizer of transformers, which adds [CLS] and [SEP] and gives offsets."""
        from transformers import ElectraTokenizerFast

        return ElectraTokenizerFast(
            vocab=dict(self._ids),
            do_lower_case=self.lower_case,
            strip_accents=self.strip_accents,
            tokenize_chinese_chars=self.chinese_chars,
        )

    def _content(self) -> dict[str, Any]:
        content = {"tokens": self.tokens, "lower_case": self.lower_case, "strip_accents": self.strip_accents}
        # Only where it differs from the default, so that earlier vocabularies keep their digests.
        return content if self.chinese_chars else {**content, "chinese_chars": False}

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (self._content(),)


def _rebuilt(content: dict[str, Any]) -> WordPiece:
    return WordPiece(content.pop("tokens"), **content)


def wordpiece_tokenizer(
    ids: dict[str, int], lower_case: bool, strip_accents: bool | None, chinese_chars: bool = True
) -> Any:
    """A tokenizer of the tokenizers package with these ids, without [CLS] and [SEP]."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.WordPiece(vocab=ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(
        handle_chinese_chars=chinese_chars, lowercase=lower_case, strip_accents=strip_accents
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer
