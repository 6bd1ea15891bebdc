"""The smallest ELECTRA that can be spread as a given one can."""

from __future__ import annotations

from typing import Any

from lmrecipes.models.common import tiny_config as common
from lmrecipes.models.electra.config import ElectraConfig

# Width of the generator's heads, so that it has one or two.
_D_HEAD = 8


def tiny(config: dict[str, Any]) -> dict[str, Any]:
    """Small sizes; the generator keeps a single head, or has two of several, and projects where it did."""
    small = common.tiny(config)
    small["d_embedding"] = small["d_model"] if config["d_embedding"] == config["d_model"] else small["d_model"] // 2
    if "generator_size" in config:
        several = ElectraConfig(**config).generator_heads > 1
        small |= {"generator_size": (2 if several else 1) * _D_HEAD / small["d_model"], "generator_d_head": _D_HEAD}
    return small
