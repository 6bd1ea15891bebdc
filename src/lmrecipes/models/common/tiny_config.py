"""The smallest sizes at which a network still has all of its parts, for a rehearsal."""

from __future__ import annotations

from typing import Any

# By the field names that all models share. Heads and inner widths divide over two tensor-parallel processes.
LARGEST = {"n_layers": 2, "d_model": 32, "n_heads": 2, "d_head": 8, "d_ff": 64}


def tiny(config: dict[str, Any]) -> dict[str, Any]:
    """A model's configuration at toy size; other settings are unchanged.

    The vocabulary's size is left to the text: 0.
    """
    sizes = {name: min(config[name], largest) for name, largest in LARGEST.items() if name in config}
    return {**config, **sizes, **({"vocab_size": 0} if "vocab_size" in config else {})}
