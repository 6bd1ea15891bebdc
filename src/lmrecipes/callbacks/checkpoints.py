"""When checkpoints are kept: the best by validation, and the last."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


class BestCheckpoint(ModelCheckpoint):
    """Keeps the checkpoint with the best validation figure as `best-step=N.ckpt`."""

    def __init__(self, monitor: str = "val/loss", mode: str = "min") -> None:
        """Sets the figure to watch.

        Args:
            monitor: name of a logged figure.
            mode: min or max.
        """
        super().__init__(filename="best-{step}", monitor=monitor, mode=mode, save_top_k=1, enable_version_counter=False)


class LastCheckpoint(ModelCheckpoint):
    """Keeps the newest state as `last-step=N.ckpt`: every so many steps, and at the end of training.

    The one before is deleted only when the new one is whole.
    """

    def __init__(self, every_n_steps: int | None = 500, every_minutes: float | None = None) -> None:
        """Sets how often.

        Args:
            every_n_steps: optimizer steps between checkpoints.
            every_minutes: minutes between checkpoints, instead of steps.
        """
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"LastCheckpoint.every_n_steps is {every_n_steps}; it must be 1 or more")
        super().__init__(
            filename="last-{step}",
            save_top_k=1,
            every_n_train_steps=None if every_minutes is not None else every_n_steps,
            train_time_interval=None if every_minutes is None else timedelta(minutes=every_minutes),
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        super()._save_checkpoint(trainer, filepath)
        # A resumed run does not know of files that were written after the state it began from.
        if trainer.is_global_zero and Path(filepath).exists():
            for older in Path(filepath).parent.glob("last-*.ckpt"):
                if older != Path(filepath):
                    older.unlink(missing_ok=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves only between optimizer steps: a state within an accumulated step is none to continue from."""
        if not trainer.fit_loop._should_accumulate():
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the final state, unless it was just saved."""
        if self._last_global_step_saved != trainer.global_step and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Does nothing: only steps and time count."""

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> Any:
        """Keeps what is on disk: a state in the middle of a step is none to continue from."""
