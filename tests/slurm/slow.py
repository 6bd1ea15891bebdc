"""A callback that gives a test time to act between two steps."""

import os
import time

from lightning.pytorch import Callback


class Slow(Callback):
    """Waits at every step, and fails at one if asked to."""

    def __init__(self, seconds: float = 0.2, fail_at: int | None = None) -> None:
        self.seconds = seconds
        self.fail_at = fail_at

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if "SLURM_JOB_ID" in os.environ:
            time.sleep(self.seconds)
        if trainer.global_step == self.fail_at:
            raise RuntimeError("a bug in the model")
