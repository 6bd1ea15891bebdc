"""Callbacks that kill or signal their own process."""

import os
import signal

from lightning.pytorch import Callback


class KillAt(Callback):
    """Sends itself SIGKILL in the middle of the step after `step`, or of its validation, if KILL is set."""

    def __init__(self, step: int, validation: bool = False) -> None:
        self.step = step
        self.validation = validation

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        if trainer.global_step == self.step and not self.validation and os.environ.get("KILL"):
            os.kill(os.getpid(), signal.SIGKILL)

    def on_validation_epoch_start(self, trainer, pl_module) -> None:
        if trainer.global_step == self.step and self.validation and os.environ.get("KILL"):
            os.kill(os.getpid(), signal.SIGKILL)


class SignalAt(Callback):
    """Sends signal `name` in one rank, in the middle of the step after `step` or of its validation, if SEND is set."""

    def __init__(self, step: int, name: str, rank: int = 0, batch: int | None = None) -> None:
        self.step = step
        self.name = name
        self.rank = rank
        self.batch = batch

    def _send(self, trainer) -> None:
        if trainer.global_step == self.step and trainer.global_rank == self.rank and os.environ.get("SEND"):
            os.kill(os.getpid(), signal.Signals[self.name])

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        # In the first micro-batch of a step.
        if self.batch is None and batch_idx % trainer.accumulate_grad_batches == 0:
            self._send(trainer)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        if self.batch == batch_idx:
            self._send(trainer)
