"""ELECTRA: networks, and the LightningModules around them."""

from typing import TYPE_CHECKING, Any

from lmrecipes.models.electra.config import ElectraConfig, ReaderConfig
from lmrecipes.models.electra.module import ElectraModule
from lmrecipes.models.electra.squad import ElectraReaderModule

if TYPE_CHECKING:
    from lmrecipes.models.electra.network import Electra
    from lmrecipes.models.electra.reader import ElectraReader

__all__ = ["Electra", "ElectraConfig", "ElectraModule", "ElectraReader", "ElectraReaderModule", "ReaderConfig"]


def __getattr__(name: str) -> Any:
    # Networks are transformers', which takes seconds to import.
    if name == "Electra":
        from lmrecipes.models.electra.network import Electra

        return Electra
    if name == "ElectraReader":
        from lmrecipes.models.electra.reader import ElectraReader

        return ElectraReader
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
