"""ELECTRA: networks, and the LightningModules around them."""

from lmrecipes.models.electra.config import ElectraConfig, ReaderConfig
from lmrecipes.models.electra.module import ElectraModule
from lmrecipes.models.electra.network import Electra
from lmrecipes.models.electra.reader import ElectraReader
from lmrecipes.models.electra.reader_module import ElectraReaderModule

__all__ = ["Electra", "ElectraConfig", "ElectraModule", "ElectraReader", "ElectraReaderModule", "ReaderConfig"]
