"""The smallest Transformer-XL with as many clusters as a given one."""

from __future__ import annotations

from typing import Any

from lmrecipes.models.common import tiny_config as common

# Tokens of each cluster but the last, so that even the letters of a text fill all clusters.
_CLUSTER = 4


def tiny(config: dict[str, Any]) -> dict[str, Any]:
    """Toy sizes, with every cluster kept and at least one dimension wide."""
    clusters = len(config["cutoffs"])
    div_factor = config["div_val"] ** clusters
    small = common.tiny(config)
    small["d_model"] = min(config["d_model"], max(small["d_model"], div_factor + div_factor % 2))
    small["cutoffs"] = [_CLUSTER * (i + 1) for i in range(clusters)]
    return small
