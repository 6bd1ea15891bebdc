"""enwik8 and text8: the first 100 MB of Wikipedia, by bytes and by letters (Mahoney 2006)."""

from __future__ import annotations

from lmrecipes.data.corpora.text_source import Source
from lmrecipes.data.tokenizers.text_config import Tokenizing
from lmrecipes.datamodules.text import TextDataModule


class Enwik8(TextDataModule):
    """100 million bytes of Wikipedia's XML; 90 M for training, 5 M each for validation and test."""

    name = "enwik8"

    def remote(self) -> Source:
        """Refused: no plain-file repository keeps the published splits."""
        raise ValueError(
            f"{self.name} has no plain-file repository with the published splits; give a folder with its first 90 M, "
            f"next 5 M and last 5 M characters as train.txt, valid.txt and test.txt: --data.path FOLDER"
        )

    def default_tokenizing(self) -> Tokenizing:
        """Bytes."""
        return Tokenizing(kind="byte")


class Text8(Enwik8):
    """100 million letters and spaces of Wikipedia's text, split as enwik8."""

    name = "text8"

    def default_tokenizing(self) -> Tokenizing:
        """Characters."""
        return Tokenizing(kind="char")
