"""Draws the run's curves during training."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from lmrecipes.runs.plots import plot_runs


class RunPlot(Callback):
    """Draws `plots/run.png` in the run directory after validations, using at most 2 % of the time, and at the end."""

    def __init__(self) -> None:
        self._pause_until = 0.0
        self._drawn_step = -1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the curves so far."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and time.monotonic() >= self._pause_until:
            self._draw(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the whole run."""
        if trainer.global_step != self._drawn_step:
            self._draw(trainer)

    def _draw(self, trainer: Trainer) -> None:
        run_dir = Path(trainer.default_root_dir)
        if not trainer.is_global_zero or trainer.logger is None:
            return
        for logger in trainer.loggers:
            logger.save()
        if not (run_dir / "metrics.csv").is_file():
            return
        began = time.monotonic()
        try:
            plot_runs([run_dir], run_dir / "plots" / "run.png")
        except (ValueError, OSError) as error:
            warnings.warn(f"the run's plot was not drawn: {error}", stacklevel=2)
        ended = time.monotonic()
        self._pause_until = ended + 49 * (ended - began)
        self._drawn_step = trainer.global_step
