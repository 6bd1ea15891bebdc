"""Your own text."""

from __future__ import annotations

from lmrecipes.data.corpora.text_source import Source
from lmrecipes.datamodules.text import TextDataModule


class TextFolder(TextDataModule):
    """A local folder with train.txt, valid.txt and, for testing, test.txt."""

    name = "folder"

    def remote(self) -> Source:
        """Refused: `path` is required.

        Raises:
            ValueError: always.
        """
        raise ValueError("data.path is missing; give a folder with train.txt, valid.txt and test.txt")
