"""The One Billion Word benchmark (Chelba et al. 2013, arXiv:1312.3005)."""

from __future__ import annotations

from lmrecipes.data.corpora.text_source import Source
from lmrecipes.data.tokenizers.text_config import Tokenizing
from lmrecipes.datamodules.text import TextDataModule


class OneBillionWord(TextDataModule):
    """Shuffled news sentences, 0.8 billion words; each line is enclosed in <S>."""

    name = "lm1b"

    def remote(self) -> Source:
        """Refused: no plain-file repository keeps the published files."""
        raise ValueError(
            "lm1b has no plain-file repository with the published files; give a folder with the training shards "
            "joined as train.txt, and the held-out shards as valid.txt and test.txt: --data.path FOLDER"
        )

    def default_tokenizing(self) -> Tokenizing:
        """Words between sentence marks; the published vocabulary by data.tokenizing.vocab_file."""
        return Tokenizing(sentence_marks=True)
