"""SentencePiece vocabularies as earlier versions saved them: a list of pieces, normalized by another package."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from lmrecipes.data.tokenizers.sentencepiece import SentencePiece
from lmrecipes.data.tokenizers.spm_proto import model_of


class EarlierSentencePiece(SentencePiece):
    """A vocabulary in that form, with unchanged tokens and digest; it is saved unchanged."""

    def __init__(self, content: dict[str, Any]) -> None:
        """Creates a vocabulary from a folder's content: pieces with scores, charsmap and byte_fallback."""
        self._saved = content
        self._normalizer = None if content["charsmap"] else _normalizer()
        pieces = [(piece, score) for piece, score in content["pieces"]]
        super().__init__(
            model_of(pieces, base64.b64decode(content["charsmap"]) or None, byte_fallback=content["byte_fallback"])
        )

    def _before(self, text: str) -> str:
        # As in training; SentencePiece's nmt_nfkc differs in some characters.
        return text if self._normalizer is None else str(self._normalizer.normalize_str(text))

    def _content(self) -> dict[str, Any]:
        return self._saved

    def digest(self) -> str:
        """The hash in earlier versions."""
        return hashlib.sha256(json.dumps(self._saved, ensure_ascii=False).encode()).hexdigest()[:16]

    @classmethod
    def of_content(cls, content: dict[str, Any]) -> EarlierSentencePiece:
        """What an earlier version has written."""
        return cls(content)


def _normalizer() -> Any:
    from tokenizers import normalizers

    return normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC()])
