"""mT5's parallel plan."""

from __future__ import annotations

from lmrecipes.models.common.parallel_plan import ParallelPlan, Split
from lmrecipes.models.mt5.config import MT5Config

_ATTENTION: dict[str, Split] = {"query": "columns", "key": "columns", "value": "columns", "out": "rows"}
_FF: dict[str, Split] = {"gate": "columns", "up": "columns", "down": "rows"}


def parallel_plan(config: MT5Config) -> ParallelPlan:
    """Attention by heads, biases by distance with them, feed-forward by its inner width; the embedding is not split."""
    split: dict[str, Split] = {}
    for stack, attentions in (("encoder", ["attention"]), ("decoder", ["attention", "input_attention"])):
        layer = f"{stack}.layers.*"
        for attention in attentions:
            split |= {f"{layer}.{attention}.{name}": how for name, how in _ATTENTION.items()}
        split |= {f"{layer}.ff.{name}": how for name, how in _FF.items()}
        if config.positions == "relative":
            split |= {f"{stack}.distances": "heads", f"{stack}.position_bias": "local_inputs"}
    return ParallelPlan(
        blocks="*.layers.*",
        entry_points=("encode", "step"),
        split=split,
        must_divide={"n_heads": config.n_heads, "d_ff": config.d_ff},
    )
