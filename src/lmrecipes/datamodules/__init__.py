"""One class per corpus, the objectives that documents are read for, and what batches of questions are."""

from lmrecipes.data.objectives.masked_lm import MaskedLM
from lmrecipes.data.objectives.span_corruption_lm import SpanCorruptionLM
from lmrecipes.data.tasks.squad.collators import SpanCollator, TextCollator
from lmrecipes.datamodules.characters import Enwik8, Text8
from lmrecipes.datamodules.documents import DocumentsDataModule
from lmrecipes.datamodules.embedded_text import EmbeddedText
from lmrecipes.datamodules.folder import TextFolder
from lmrecipes.datamodules.lm1b import OneBillionWord
from lmrecipes.datamodules.mc4 import MC4DataModule
from lmrecipes.datamodules.squad import SquadDataModule
from lmrecipes.datamodules.text import TextDataModule
from lmrecipes.datamodules.wikitext import WikiText2, WikiText103
from lmrecipes.datamodules.xnli import XNLIDataModule

__all__ = [
    "DocumentsDataModule",
    "EmbeddedText",
    "Enwik8",
    "MC4DataModule",
    "MaskedLM",
    "OneBillionWord",
    "SpanCollator",
    "SpanCorruptionLM",
    "SquadDataModule",
    "Text8",
    "TextCollator",
    "TextDataModule",
    "TextFolder",
    "WikiText2",
    "WikiText103",
    "XNLIDataModule",
]
