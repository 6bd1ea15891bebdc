"""The learning rate among the logged figures."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class LearningRate(Callback):
    """Logs `train/lr`, the rate of the step just made (of the first parameter group)."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Logs the rate."""
        pl_module.log("train/lr", float(trainer.optimizers[0].param_groups[0]["lr"]), batch_size=1)
