"""A callback that ends the process the hard way, as a node that dies does."""

import os
import signal

from lightning.pytorch import Callback


class KillAt(Callback):
    """Sends itself SIGKILL in the middle of the step after `step`, or of its validation, if the environment says so."""

    def __init__(self, step: int, validation: bool = False) -> None:
        self.step = step
        self.validation = validation

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        if trainer.global_step == self.step and not self.validation and os.environ.get("KILL"):
            os.kill(os.getpid(), signal.SIGKILL)

    def on_validation_epoch_start(self, trainer, pl_module) -> None:
        if trainer.global_step == self.step and self.validation and os.environ.get("KILL"):
            os.kill(os.getpid(), signal.SIGKILL)
