"""The smallest mT5 that can be spread as a given one can."""

from __future__ import annotations

from typing import Any

from lmrecipes.models.common import tiny_config as common


def tiny(config: dict[str, Any]) -> dict[str, Any]:
    """Toy sizes, with a small embedding table and distinct relative distances."""
    return {**common.tiny(config), "vocab_multiple": 1, "n_buckets": 8, "max_distance": 16}
