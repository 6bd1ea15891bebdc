"""A callback that sends its own process a signal, if the environment says so."""

import os
import signal

from lightning.pytorch import Callback


class SignalAt(Callback):
    """Sends `name` in one rank: in the middle of the step after `step`, or of the validation after it."""

    def __init__(self, step: int, name: str, rank: int = 0, batch: int | None = None) -> None:
        self.step = step
        self.name = name
        self.rank = rank
        self.batch = batch

    def _send(self, trainer) -> None:
        if trainer.global_step == self.step and trainer.global_rank == self.rank and os.environ.get("SEND"):
            os.kill(os.getpid(), signal.Signals[self.name])

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        # In the first of the passes of a step.
        if self.batch is None and batch_idx % trainer.accumulate_grad_batches == 0:
            self._send(trainer)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        if self.batch == batch_idx:
            self._send(trainer)
