"""Kills the process at a step, for rehearsals."""

from __future__ import annotations

import os
import signal
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

# The kill is armed by this environment variable only.
ASKED_FOR = "LMRECIPES_SUDDEN_END"


class KillAtStep(Callback):
    """Kills its whole process group in the middle of a step, like a power failure."""

    def __init__(self, after_step: int) -> None:
        """Sets when.

        Args:
            after_step: the last optimizer step that completes.
        """
        self.after_step = after_step

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Kills, after the backward pass and before the optimizer step."""
        if trainer.global_step == self.after_step and os.environ.get(ASKED_FOR):
            os.killpg(0, signal.SIGKILL)
