"""The progress bar on a terminal."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

from lmrecipes.trainer_state import completes_step


class StepBar(RichProgressBar):
    """Counts optimizer steps of the whole run, with the loss and the perplexity beside them."""

    def __init__(self) -> None:
        super().__init__(leave=False)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shows the bar, starting at the step of a resumed run."""
        if self.is_disabled or self.progress is None:
            return
        text = f"Training, epoch {trainer.current_epoch}"
        if self.train_progress_bar_id is None:
            total = trainer.estimated_stepping_batches
            self.train_progress_bar_id = self.progress.add_task(text, total=total, completed=trainer.global_step)
        else:
            self.progress.update(self.train_progress_bar_id, description=text)
        self.refresh()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advances the bar after an optimizer step."""
        if completes_step(trainer):
            self._update(self.train_progress_bar_id, trainer.global_step)
            self._update_metrics(trainer, pl_module)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """The metrics next to the bar."""
        metrics = {**trainer.callback_metrics, **trainer.logged_metrics}
        return {name: float(metrics[name]) for name in ("train/loss", "val/loss", "val/perplexity") if name in metrics}
