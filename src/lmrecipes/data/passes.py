"""Where a training stands within a step, under the Trainer and under Fabric."""

from __future__ import annotations

from typing import Any


def completes_step(trainer: Any) -> bool:
    """Whether the pass being made, or just made, is the last of an optimizer step."""
    loop = getattr(trainer, "fit_loop", None)
    return bool(trainer.completes_step if loop is None else not loop._should_accumulate())


def logs_step(trainer: Any) -> bool:
    """Whether the step being made is one that is logged."""
    connector = getattr(trainer, "_logger_connector", None)
    return bool(trainer.logs_step if connector is None else connector.should_update_logs)
