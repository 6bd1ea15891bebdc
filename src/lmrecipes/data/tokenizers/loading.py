"""Loading a vocabulary of any kind from the folder that it was saved in."""

from __future__ import annotations

from pathlib import Path

from lmrecipes.data.tokenizers.base import FILE, Vocabulary
from lmrecipes.data.tokenizers.bpe import SubwordVocabulary
from lmrecipes.data.tokenizers.characters import CharacterVocabulary
from lmrecipes.data.tokenizers.words import WordVocabulary
from lmrecipes.runtime.open_file import parse_json


def load_vocabulary(folder: Path) -> Vocabulary:
    """The vocabulary saved in a folder.

    Raises:
        ValueError: if there is none, or it cannot be read.
    """
    path = folder / FILE
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        kind = content.pop("kind")
        if kind == "word":
            return WordVocabulary(content.pop("words"), **content)
        if kind == "subword":
            return SubwordVocabulary(content["tokenizer"])
        if kind == "wordpiece":
            from lmrecipes.data.tokenizers.wordpiece import WordPiece

            return WordPiece(content.pop("tokens"), **content)
        if kind == "sentencepiece" and "pieces" in content:
            from lmrecipes.data.tokenizers.sentencepiece_earlier import EarlierSentencePiece

            return EarlierSentencePiece(content)
        if kind == "sentencepiece":
            from lmrecipes.data.tokenizers.sentencepiece import SentencePiece

            return SentencePiece.of_content(content)
        return CharacterVocabulary(content["symbols"], kind=kind)
    except FileNotFoundError:
        raise ValueError(f"no vocabulary in {folder}") from None
    except Exception as error:  # a file of a stranger may hold anything
        raise ValueError(f"vocabulary {path} cannot be read: {error}") from error


def is_reproducible(folder: Path) -> bool:
    """Whether learning a saved vocabulary again gives the same one.

    Earlier versions learned SentencePiece non-deterministically, and saved a list of pieces.
    """
    try:
        content = parse_json((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return True
    return not (isinstance(content, dict) and content.get("kind") == "sentencepiece" and "pieces" in content)
