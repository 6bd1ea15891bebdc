"""ELECTRA: networks, and the LightningModules around them."""

from lmrecipes.models.electra.config import ElectraConfig
from lmrecipes.models.electra.network import Electra

__all__ = ["Electra", "ElectraConfig"]
