"""ELECTRA's parallel plans."""

from __future__ import annotations

from lmrecipes.models.common.parallel_plan import ParallelPlan, Split
from lmrecipes.models.electra.config import ElectraConfig, EncoderConfig


def pretraining_plan(config: ElectraConfig) -> ParallelPlan:
    """Attention of both encoders by heads, and their feed-forward networks by the inner width; heads stay whole."""
    return ParallelPlan(
        blocks="*.encoder.layer.*",
        split={**_split("discriminator"), **_split("generator")},
        must_divide={
            "n_heads": config.n_heads,
            "d_ff": config.d_ff,
            "generator_heads": config.generator_heads,
            "generator_d_ff": config.generator_d_ff,
        },
    )


def reader_plan(config: EncoderConfig) -> ParallelPlan:
    """The same for the one encoder of a reader."""
    return ParallelPlan(
        blocks="*.encoder.layer.*",
        split=_split("electra"),
        must_divide={"n_heads": config.n_heads, "d_ff": config.d_ff},
    )


def _split(encoder: str) -> dict[str, Split]:
    layer = f"{encoder}.encoder.layer.*"
    return {
        f"{layer}.attention.self.query": "columns",
        f"{layer}.attention.self.key": "columns",
        f"{layer}.attention.self.value": "columns",
        f"{layer}.attention.output.dense": "rows",
        f"{layer}.intermediate.dense": "columns",
        f"{layer}.output.dense": "rows",
    }
