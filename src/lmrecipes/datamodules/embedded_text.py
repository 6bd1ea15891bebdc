"""English that needs no download."""

from __future__ import annotations

from lmrecipes.data.corpora.python_text import PythonText
from lmrecipes.data.corpora.text_source import Source
from lmrecipes.data.tokenizers.text_config import Tokenizing
from lmrecipes.datamodules.text import TextDataModule


class EmbeddedText(TextDataModule):
    """Help topics and docstrings of the running Python, some 400,000 words."""

    name = "embedded"

    def remote(self) -> Source:
        """Text of the standard library."""
        return PythonText()

    def default_tokenizing(self) -> Tokenizing:
        """Words seen at least twice."""
        return Tokenizing(min_freq=2, wikitext_style=True)
