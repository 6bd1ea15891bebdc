"""A callback that ends the process the hard way, as a node that dies does."""

import os
import signal

from lightning.pytorch import Callback


class KillAt(Callback):
    """Sends itself SIGKILL in the middle of the step after `step`, if the environment says so."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        if trainer.global_step == self.step and os.environ.get("KILL"):
            os.kill(os.getpid(), signal.SIGKILL)
