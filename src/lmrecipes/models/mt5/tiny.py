"""The smallest mT5 that can be spread as a given one can."""

from __future__ import annotations

from typing import Any

from lmrecipes.models.common import tiny_config as common


def tiny(config: dict[str, Any]) -> dict[str, Any]:
    """Small sizes; the table is no longer than the vocabulary needs, and distances are still told apart."""
    return {**common.tiny(config), "vocab_multiple": 1, "n_buckets": 8, "max_distance": 16}
