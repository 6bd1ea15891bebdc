"""WikiText-103 and WikiText-2 (Merity et al. 2016, arXiv:1609.07843)."""

from __future__ import annotations

from lmrecipes.data.corpora.tables import HubRepository
from lmrecipes.data.corpora.text_source import Source
from lmrecipes.data.tokenizers.text_config import Tokenizing
from lmrecipes.datamodules.text import TextDataModule


class WikiText103(TextDataModule):
    """103 million words of good and featured English Wikipedia articles."""

    name = "wikitext-103"
    published_vocab_size = 267735

    def remote(self) -> Source:
        """The hub's copy of the tokenized text."""
        return HubRepository("Salesforce/wikitext", f"{self.name}-v1", revision=self.revision)

    def default_tokenizing(self) -> Tokenizing:
        """Words between white space."""
        return Tokenizing(wikitext_style=True)


class WikiText2(WikiText103):
    """2 million words of the same kind."""

    name = "wikitext-2"
    published_vocab_size = 33278
