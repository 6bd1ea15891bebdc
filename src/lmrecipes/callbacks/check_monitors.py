"""Fails early if a callback monitors a metric that is never logged."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint


class CheckMonitors(Callback):
    """Refuses callbacks whose monitored metric is not logged, as soon as that is certain."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks the monitored names against the metrics logged so far.

        Raises:
            ValueError: naming the missing metric and the logged ones.
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
    """Whether a metric of this name would have been logged by now: training metrics may come at the end of an epoch."""
    if name.startswith("val/") or trainer.current_epoch > 0:
        return True
    return (
        isinstance(callback, EarlyStopping) and not callback._check_on_train_epoch_end and not trainer.sanity_checking
    )
