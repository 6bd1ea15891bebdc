"""What a continued run has to put right."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lmrecipes.loggers import RunLogger


class ContinueLog(Callback):
    """Drops logged rows of steps that are made again after a resume, and keeps the counts of steps and epochs right."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Cuts the log at the step to continue from, and opens the epoch that the run's last step closed too early."""
        per_epoch = getattr(trainer.train_dataloader, "batches_per_epoch", None)
        progress: Any = trainer.fit_loop.epoch_progress
        if per_epoch is not None:
            begun = trainer.global_step * trainer.accumulate_grad_batches // per_epoch
            for counts in (progress.total, progress.current) if progress.current.processed > begun else ():
                for name in ("ready", "started", "processed", "completed"):
                    setattr(counts, name, getattr(counts, name) - 1)
        if trainer.is_global_zero and trainer.global_step:
            for logger in trainer.loggers:
                if isinstance(logger, RunLogger):
                    logger.forget_after(trainer.global_step)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Sets Lightning's count for loggers, which is one too many after some resumes."""
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
