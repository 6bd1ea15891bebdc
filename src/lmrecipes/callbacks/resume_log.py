"""Keeps the log of a resumed run complete and free of duplicates."""

from __future__ import annotations

from typing import Any

from lightning.fabric.utilities.apply_func import convert_tensors_to_scalars
from lightning.pytorch import Callback, LightningModule, Trainer

from lmrecipes.loggers import RunLogger

# Key in a checkpoint for metrics that were not logged yet.
FIGURES = "figures_of_the_step"


class ResumeLog(Callback):
    """Drops logged rows of steps that a resume repeats, and corrects step and epoch counts.

    Lightning logs a step after it was saved: its metrics are in the checkpoint too, so a kill in between loses none.
    """

    def __init__(self) -> None:
        self._figures: dict[str, float] = {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Saves the metrics of a step that is about to be logged."""
        connector: Any = trainer._logger_connector
        within_a_step = trainer.training and connector._first_loop_iter is not None
        if within_a_step and connector.should_update_logs:
            metrics = convert_tensors_to_scalars(connector.metrics["log"])
            if metrics:
                checkpoint[FIGURES] = {"epoch": trainer.current_epoch, **metrics}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restores them, and converts batch counts if the accumulation changed."""
        self._figures = checkpoint.get(FIGURES, {})
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        if step := checkpoint["global_step"]:
            _recount(progress, progress["total"]["ready"] // step, trainer.accumulate_grad_batches)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Truncates the log at the resumed step, and reopens the epoch that the run's last step closed too early."""
        per_epoch = getattr(trainer.train_dataloader, "batches_per_epoch", None)
        progress: Any = trainer.fit_loop.epoch_progress
        if per_epoch is not None:
            begun = trainer.global_step * trainer.accumulate_grad_batches // per_epoch
            for counts in (progress.total, progress.current) if progress.current.processed > begun else ():
                for name in ("ready", "started", "processed", "completed"):
                    setattr(counts, name, getattr(counts, name) - 1)
        if trainer.global_step:
            rewind_logs(trainer, self._figures)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Corrects Lightning's step count for loggers, which is one too high after some resumes."""
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step


def rewind_logs(trainer: Any, metrics: dict[str, float]) -> None:
    """Truncates the logs at the resumed step, and adds its metrics where they were not logged yet."""
    for logger in trainer.loggers if trainer.is_global_zero else ():
        if isinstance(logger, RunLogger):
            logger.forget_after(trainer.global_step)
            if metrics:
                logger.add_if_missing(metrics, trainer.global_step)


def _recount(progress: dict[str, Any], before: int, now: int) -> None:
    """Converts counts of micro-batches at the end of a step to another accumulation."""
    for counts in (progress["total"], progress["current"]):
        behind = {name: counts["ready"] - count for name, count in counts.items()}
        ready = counts["ready"] // max(before, 1) * now
        counts.update({name: ready - number for name, number in behind.items()})
