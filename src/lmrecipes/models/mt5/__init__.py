"""mT5: network, generation, and the LightningModule around them."""

from lmrecipes.models.common.generation import Decoding, generate
from lmrecipes.models.mt5.config import MT5Config
from lmrecipes.models.mt5.module import MT5Module
from lmrecipes.models.mt5.network import MT5

__all__ = ["MT5", "Decoding", "MT5Config", "MT5Module", "generate"]
