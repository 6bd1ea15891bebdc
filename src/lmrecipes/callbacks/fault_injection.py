"""Kills the process at a step, for rehearsals."""

from __future__ import annotations

import os
import signal
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

# The kill is armed by this environment variable only.
ASKED_FOR = "LMRECIPES_SUDDEN_END"


class KillAtStep(Callback):
    """Kills all processes of its group in the middle of a step, as a machine that loses its power does."""

    def __init__(self, after_step: int) -> None:
        """Sets when.

        Args:
            after_step: optimizer steps that are made; the one after it is not.
        """
        self.after_step = after_step

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Ends everything, once gradients are there and before they are used."""
        if trainer.global_step == self.after_step and os.environ.get(ASKED_FOR):
            os.killpg(0, signal.SIGKILL)
