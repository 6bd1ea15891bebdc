"""Checkpoints of the Fabric loop: in the Trainer's format, so that either can resume the other's."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from lightning import __version__ as lightning_version
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loops.fit_loop import _FitLoop

from lmrecipes.callbacks import BestCheckpoint
from lmrecipes.callbacks.loss_guard import is_finite
from lmrecipes.callbacks.resume_log import FIGURES, rewind_logs
from lmrecipes.checkpoints.io import BY_NAME, AtomicCheckpointIO, is_whole, make_room, remove_others
from lmrecipes.checkpoints.listing import make_way
from lmrecipes.checkpoints.optimizer_state import from_named, names_in_order
from lmrecipes.checkpoints.sharded import remove


class Training(Protocol):
    """Training state to save and restore; names and units are the Trainer's."""

    run_dir: Path | None
    module: Any
    callbacks: list[Callback]
    optimizers: list[Any]
    lr_scheduler_configs: list[Any]
    train_dataloader: Any
    accumulate_grad_batches: int
    global_step: int
    current_epoch: int
    validation_left: bool
    """Whether the validation of the last step is still to be made."""
    written: set[Path]
    """Checkpoints that this training wrote."""

    @property
    def is_global_zero(self) -> bool:
        """Whether this process is rank 0."""

    @property
    def loggers(self) -> Any:
        """Loggers of the run."""

    def barrier(self) -> None:
        """Waits for all ranks."""


def save(loop: Training, kind: str) -> Path | None:
    """Writes `<kind>-step=N.ckpt` (kind best or last) and removes the previous one; None if writing fails.

    A checkpoint of the same step that this loop wrote is kept; an older one may be broken or lack the validation.
    """
    if loop.run_dir is None or not is_finite(loop.callbacks):
        return None
    path = loop.run_dir / "checkpoints" / f"{kind}-step={loop.global_step}.ckpt"
    content = _state(loop)
    if loop.is_global_zero and path not in loop.written:
        make_way(path)
        if not is_whole(path):
            # If the disk is full, an old broken file must not be mistaken for this checkpoint.
            remove(path)
        AtomicCheckpointIO().save_checkpoint(content, path)
        if not path.exists() and make_room(path):
            AtomicCheckpointIO().save_checkpoint(content, path)
        if path.exists():
            remove_others(path)
    if path.exists():
        loop.written.add(path)
    loop.barrier()
    return path if path.exists() else None


def save_best(loop: Training, best: BestCheckpoint, metrics: dict[str, float]) -> None:
    """Writes the checkpoint if the monitored metric is the best so far, and records that as the Trainer does."""
    value = metrics.get(best.monitor or "")
    if value is None or loop.run_dir is None or not isfinite(value):
        return
    before, score = best.best_model_score, torch.tensor(value, dtype=torch.float64)
    if before is not None and not (score < before if best.mode == "min" else score > before):
        return
    path = str(loop.run_dir / "checkpoints" / f"best-step={loop.global_step}.ckpt")
    best.best_model_score = best.current_score = best.kth_value = score
    best.best_model_path = best.kth_best_model_path = path
    best.best_k_models = {path: score}
    save(loop, "best")


def _state(loop: Training) -> dict[str, Any]:
    content: dict[str, Any] = {
        "epoch": loop.current_epoch,
        "global_step": loop.global_step,
        "pytorch-lightning_version": lightning_version,
        "state_dict": loop.module.state_dict(),
        "loops": _loops(loop),
        "callbacks": {},
        "optimizer_states": [optimizer.state_dict() for optimizer in loop.optimizers],
        "lr_schedulers": [config.scheduler.state_dict() for config in loop.lr_scheduler_configs],
        "optimizer_parameters": [names_in_order(loop.module, optimizer) for optimizer in loop.optimizers],
    }
    trainer: Any = loop
    loop.module.on_save_checkpoint(content)
    for callback in loop.callbacks:
        if state := callback.state_dict():
            content["callbacks"][callback.state_key] = state
        callback.on_save_checkpoint(trainer, loop.module, content)
    return content


def _loops(loop: Training) -> dict[str, Any]:
    """The progress in the form of the Trainer's loops."""
    fit = _FitLoop(cast(Trainer, loop))
    epoch = fit.epoch_loop
    not_begun = epoch.val_loop.state_dict()
    step, position = loop.global_step, loop.global_step * loop.accumulate_grad_batches
    # Lightning increments it after a step's validation.
    epoch._batches_that_stepped = step - loop.validation_left
    _set(epoch.batch_progress.total, position)
    _set(epoch.batch_progress.current, position - loop.current_epoch * loop.train_dataloader.batches_per_epoch)
    optimizer = epoch.automatic_optimization.optim_progress.optimizer
    for progress in (epoch.scheduler_progress, optimizer.step, optimizer.zero_grad):
        _set(progress.total, step)
        _set(progress.current, step)
    for counts in (fit.epoch_progress.total, fit.epoch_progress.current):
        _set(counts, loop.current_epoch)
    if loop.validation_left:
        validation: Any = epoch.val_loop.batch_progress
        for counts in (validation.total, validation.current):
            counts.ready = counts.started = 1
    return {"fit_loop": fit.state_dict(), **dict.fromkeys(("validate_loop", "test_loop", "predict_loop"), not_begun)}


def _set(counts: Any, number: int) -> None:
    """Sets every count of a tracker."""
    for name in vars(counts):
        setattr(counts, name, number)


def restore(loop: Training, checkpoint: dict[str, Any]) -> None:
    """Restores everything from a checkpoint of any strategy."""
    loop.module.load_state_dict(checkpoint["state_dict"])
    by_name = checkpoint.get(BY_NAME, False)
    for optimizer, state in zip(loop.optimizers, checkpoint["optimizer_states"], strict=True):
        optimizer.load_state_dict(from_named(state, loop.module, optimizer) if by_name else state)
    for config, state in zip(loop.lr_scheduler_configs, checkpoint["lr_schedulers"], strict=True):
        config.scheduler.load_state_dict(state)
    loop.global_step = checkpoint["global_step"]
    # How the Trainer's loop state marks a validation that was started but not finished.
    validation = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]["total"]
    loop.validation_left = validation["processed"] == validation["completed"] == validation["started"] - 1
    loop.module.on_load_checkpoint(checkpoint)
    trainer: Any = loop
    for callback in loop.callbacks:
        callback.on_load_checkpoint(trainer, loop.module, checkpoint)
        if callback.state_key in checkpoint["callbacks"]:
            callback.load_state_dict(checkpoint["callbacks"][callback.state_key])
    rewind_logs(trainer, checkpoint.get(FIGURES, {}))
