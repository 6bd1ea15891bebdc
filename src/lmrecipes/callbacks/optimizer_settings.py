"""The user's optimizer settings outlive a resume."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class KeepOptimizerSettings(Callback):
    """Puts the configured learning rate, betas, weight decay… back after a checkpoint's optimizer state was loaded.

    A torch optimizer's state holds its settings too, so that resuming would silently undo what the user changed.
    The current learning rate is then set by the schedule, from the configured one.
    """

    def __init__(self) -> None:
        self._settings: list[list[dict[str, Any]]] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes the settings before the checkpoint's state replaces them."""
        self._settings = [
            [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
            for optimizer in trainer.optimizers
        ]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts them back."""
        for optimizer, groups in zip(trainer.optimizers, self._settings, strict=True):
            for group, settings in zip(optimizer.param_groups, groups, strict=True):
                group.update(settings)
        for config in trainer.lr_scheduler_configs:
            scheduler = config.scheduler
            for group, rate in zip(scheduler.optimizer.param_groups, scheduler.get_lr(), strict=True):
                group["lr"] = rate
