"""Transformer-XL's parallel plan."""

from __future__ import annotations

from lmrecipes.models.common.parallel_plan import ParallelPlan
from lmrecipes.models.transformer_xl.config import TransformerXLConfig


def parallel_plan(config: TransformerXLConfig) -> ParallelPlan:
    """Attention by heads and the feed-forward network by its inner width; the embedding is not split."""
    return ParallelPlan(
        blocks="layers.*",
        entry_points=("log_probs",),
        split={
            "content_bias": "heads",
            "position_bias": "heads",
            "layers.*.attention": "local_inputs",
            "layers.*.attention.query": "columns",
            "layers.*.attention.key_value": "columns",
            "layers.*.attention.position": "columns",
            "layers.*.attention.out": "rows",
            "layers.*.ff_in": "columns",
            "layers.*.ff_out": "rows",
        },
        must_divide={"n_heads": config.n_heads, "d_ff": config.d_ff},
    )
