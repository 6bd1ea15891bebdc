"""Fails early if a callback monitors a metric that is never logged."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint


class CheckMonitors(Callback):
    """Refuses checkpoints and early stopping by a figure that is not logged, as soon as it can be known."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks for the figures among those logged so far.

        Raises:
            ValueError: naming the figure that is not there, and those that are.
        """
        if trainer.state.fn != "fit":
            return
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if not isinstance(callback, EarlyStopping | ModelCheckpoint) or not getattr(callback, "strict", True):
                continue
            name = callback.monitor
            if name is not None and name not in trainer.callback_metrics and _known_by_now(trainer, callback, name):
                logged = ", ".join(sorted(trainer.callback_metrics))
                raise ValueError(
                    f"{type(callback).__name__}.monitor is {name!r}, which is not logged; logged: {logged}"
                )


def _known_by_now(trainer: Trainer, callback: EarlyStopping | ModelCheckpoint, name: str) -> bool:
    """Whether a figure of this name would have been logged: those of training may come as late as an epoch's end."""
    if name.startswith("val/") or trainer.current_epoch > 0:
        return True
    return (
        isinstance(callback, EarlyStopping) and not callback._check_on_train_epoch_end and not trainer.sanity_checking
    )
