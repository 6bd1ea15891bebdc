"""Tells sharded tensors and modules from plain ones."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor
    from typing_extensions import TypeIs


def is_split(tensor: Any) -> TypeIs[DTensor]:
    """Whether a tensor is a DTensor."""
    return _is("torch.distributed.tensor", "DTensor", tensor)


def is_sharded(module: Any) -> TypeIs[FSDPModule]:
    """Whether a module's parameters are gathered when it is used (FSDP2)."""
    return _is("torch.distributed.fsdp", "FSDPModule", module)


def _is(module: str, name: str, value: Any) -> bool:
    # Importing these classes takes most of a second, and no instance exists before its class is imported.
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(value, kind)
