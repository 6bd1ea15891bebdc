"""Logs the learning rate."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from lmrecipes.trainer_state import logs_step


class LearningRate(Callback):
    """Logs `train/lr`, the learning rate of the step (first parameter group)."""

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Logs the learning rate if the step is logged."""
        if logs_step(trainer):
            pl_module.log("train/lr", float(optimizer.param_groups[0]["lr"]), batch_size=1)
