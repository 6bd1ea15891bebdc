"""Checkpoints of the Fabric loop: in the Trainer's format, so that either can resume the other's."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning import __version__ as lightning_version
from lightning.pytorch import Callback

from lmrecipes.callbacks import BestCheckpoint, LossGuard
from lmrecipes.callbacks.resume_log import FIGURES
from lmrecipes.checkpoints.io import BY_NAME, AtomicCheckpointIO, check, remove_others
from lmrecipes.checkpoints.listing import make_way
from lmrecipes.checkpoints.optimizer_state import from_named, names_in_order
from lmrecipes.checkpoints.sharded import remove
from lmrecipes.loggers import RunLogger


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
    guards = (callback for callback in loop.callbacks if isinstance(callback, LossGuard))
    if loop.run_dir is None or not all(guard.is_finite() for guard in guards):
        return None
    path = loop.run_dir / "checkpoints" / f"{kind}-step={loop.global_step}.ckpt"
    content = _state(loop)
    if loop.is_global_zero and path not in loop.written:
        make_way(path)
        if not _is_whole(path):
            # If the disk is full, an old broken file must not be mistaken for this checkpoint.
            remove(path)
        AtomicCheckpointIO().save_checkpoint(content, path)
        if path.exists():
            remove_others(path)
    loop.written.add(path)
    loop.barrier()
    return path if path.exists() else None


def _is_whole(path: Path) -> bool:
    try:
        check(path)
    except ValueError:
        return False
    return True


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

    def counts(number: int, *names: str) -> dict[str, dict[str, int]]:
        return {which: dict.fromkeys(names, number) for which in ("total", "current")}

    four, step = ("ready", "started", "processed", "completed"), loop.global_step
    position = step * loop.accumulate_grad_batches
    in_epoch = position - loop.current_epoch * loop.train_dataloader.batches_per_epoch
    none = {"state_dict": {}, "batch_progress": {**counts(0, *four), "is_last_batch": False}}
    begun = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
    left = {"total": begun, "current": begun, "is_last_batch": False}
    fit = {
        "state_dict": {},
        # Lightning increments it after a step's validation.
        "epoch_loop.state_dict": {"_batches_that_stepped": step - loop.validation_left},
        "epoch_loop.batch_progress": {
            "total": dict.fromkeys(four, position),
            "current": dict.fromkeys(four, in_epoch),
            "is_last_batch": False,
        },
        "epoch_loop.scheduler_progress": counts(step, "ready", "completed"),
        "epoch_loop.automatic_optimization.state_dict": {},
        "epoch_loop.automatic_optimization.optim_progress": {
            "optimizer": {
                "step": counts(step, "ready", "completed"),
                "zero_grad": counts(step, "ready", "started", "completed"),
            }
        },
        "epoch_loop.manual_optimization.state_dict": {},
        "epoch_loop.manual_optimization.optim_step_progress": counts(0, "ready", "completed"),
        "epoch_loop.val_loop.state_dict": {},
        "epoch_loop.val_loop.batch_progress": left if loop.validation_left else none["batch_progress"],
        "epoch_progress": counts(loop.current_epoch, *four),
    }
    return {"fit_loop": fit, "validate_loop": none, "test_loop": none, "predict_loop": none}


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
    if loop.is_global_zero:
        for logger in loop.loggers:
            if isinstance(logger, RunLogger):
                logger.forget_after(loop.global_step)
                if metrics := checkpoint.get(FIGURES):
                    logger.add_if_missing(metrics, loop.global_step)
