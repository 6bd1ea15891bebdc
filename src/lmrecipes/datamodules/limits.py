"""Limits on the batches of a trial, in the units of these DataModules: optimizer steps, and batches that are scored."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lmrecipes.datamodules.protocols import Overfits, WarmsUp


def overfit(datamodule: LightningDataModule | None, n_batches: int) -> dict[str, Any]:
    """Trains on the first batches over and over; Lightning's own way would replace the loader's order.

    Args:
        datamodule: the data; one that cannot repeat its batches is left to Lightning.
        n_batches: optimizer steps' batches.

    Returns:
        Settings of the Trainer for it.
    """
    if not n_batches or not isinstance(datamodule, Overfits):
        return {}
    datamodule.overfit_batches = n_batches
    return {"overfit_batches": 0, "limit_val_batches": n_batches}


def run_whole_steps(trainer: Trainer, n_steps: int) -> None:
    """Makes `fast_dev_run` train whole steps: Lightning's one epoch of micro-batches would end in the middle of one."""
    trainer.fit_loop.max_epochs, trainer.limit_train_batches = -1, 1.0
    trainer.val_check_interval, trainer.check_val_every_n_epoch = n_steps, None


def score_something(datamodule: Any, settings: Any, split: str, *, quiet: bool = False) -> None:
    """Raises a limit of evaluation batches that would leave only those that fill the memory, and are not scored.

    Args:
        datamodule: the data.
        settings: a Trainer, or the `trainer:` group.
        split: val or test.
        quiet: whether the limit was not given as such, so that nothing is said of it.
    """
    if not isinstance(datamodule, WarmsUp):
        return
    name, n_unscored = f"limit_{split}_batches", datamodule.warm_up_batches(split)
    limit = getattr(settings, name)
    if not isinstance(limit, int) or not 0 < limit <= n_unscored:
        return
    setattr(settings, name, n_unscored + 1)
    if not quiet:
        unscored = "batch fills" if n_unscored == 1 else f"{n_unscored} batches fill"
        rank_zero_warn(
            f"trainer.{name} is {limit}, but the first {unscored} the memory without being scored: "
            f"evaluating {n_unscored + 1}"
        )
