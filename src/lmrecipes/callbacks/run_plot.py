"""The curves of a run, drawn while it goes."""

from __future__ import annotations

import warnings
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from lmrecipes.plots import plot_runs


class RunPlot(Callback):
    """Draws `plots/run.png` in the run directory after every validation and at the end."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws what there is."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._draw(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the whole run."""
        self._draw(trainer)

    def _draw(self, trainer: Trainer) -> None:
        run_dir = Path(trainer.default_root_dir)
        if not trainer.is_global_zero or trainer.logger is None:
            return
        for logger in trainer.loggers:
            logger.save()
        if not (run_dir / "metrics.csv").is_file():
            return
        try:
            plot_runs([run_dir], run_dir / "plots" / "run.png")
        except (ValueError, OSError) as error:
            warnings.warn(f"the run's plot was not drawn: {error}", stacklevel=2)
