"""What a continued run has to put right."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer

from lmrecipes.loggers import RunCSVLogger


class ContinueLog(Callback):
    """Drops logged rows of steps that are made again after a resume, so that none is there twice."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Cuts the log at the step to continue from."""
        if trainer.is_global_zero and trainer.global_step:
            for logger in trainer.loggers:
                if isinstance(logger, RunCSVLogger):
                    logger.forget_from(trainer.global_step)
