"""Transformer-XL: network, and the LightningModule around it."""

from lmrecipes.models.transformer_xl.config import TransformerXLConfig
from lmrecipes.models.transformer_xl.module import TransformerXLModule
from lmrecipes.models.transformer_xl.network import TransformerXL

__all__ = ["TransformerXL", "TransformerXLConfig", "TransformerXLModule"]
