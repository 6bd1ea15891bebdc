"""On resume: optimizer state from the checkpoint, optimizer settings from the recipe."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lmrecipes.checkpoints.io import BY_NAME
from lmrecipes.checkpoints.optimizer_state import from_named, names_in_order


class PortableOptimizerState(Callback):
    """Saves the names of the optimizer's parameters, so that a run may resume under another strategy."""

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Saves the names in the order of the optimizer's own numbering."""
        if trainer.strategy.lightning_restore_optimizer:
            checkpoint["optimizer_parameters"] = [names_in_order(pl_module, o) for o in trainer.optimizers]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Converts a state keyed by name to torch's numbering before it is loaded."""
        loaded: dict[str, Any] = trainer._checkpoint_connector._loaded_checkpoint
        if loaded.pop(BY_NAME, False) and trainer.strategy.lightning_restore_optimizer:
            loaded["optimizer_states"] = [
                from_named(states, pl_module, optimizer)
                for states, optimizer in zip(loaded["optimizer_states"], trainer.optimizers, strict=True)
            ]


class KeepOptimizerSettings(Callback):
    """Restores the configured learning rate, betas, weight decay… after a checkpoint's optimizer state was loaded.

    A torch optimizer's state includes its settings, so resuming would silently undo the user's changes.
    The current learning rate is then set by the schedule, from the configured one.
    """

    def __init__(self) -> None:
        self._settings: list[list[dict[str, Any]]] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Records the settings before the checkpoint's state replaces them."""
        self._settings = [
            [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
            for optimizer in trainer.optimizers
        ]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restores the settings."""
        for optimizer, groups in zip(trainer.optimizers, self._settings, strict=True):
            for group, settings in zip(optimizer.param_groups, groups, strict=True):
                group.update(settings)
        for config in trainer.lr_scheduler_configs:
            scheduler = config.scheduler
            for group, rate in zip(scheduler.optimizer.param_groups, scheduler.get_lr(), strict=True):
                group["lr"] = rate
