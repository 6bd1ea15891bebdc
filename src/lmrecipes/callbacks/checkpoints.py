"""Which checkpoints are kept: the best by a validation metric, and the last."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from copy import copy
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lmrecipes.callbacks.loss_guard import is_finite
from lmrecipes.checkpoints import listing
from lmrecipes.checkpoints.io import make_room, remove_others
from lmrecipes.checkpoints.sharded import begin_writing
from lmrecipes.config.validation import minutes

_PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")
_PROGRESS = (
    *_PATHS,
    *("best_k_models", "best_model_score", "current_score", "kth_value"),
    *("_last_global_step_saved", "_last_checkpoint_saved"),
)


class _WholeCheckpoint(ModelCheckpoint):
    """A ModelCheckpoint that counts only completed writes, and stores file names so that a run may be moved.

    A state that LossGuard reports as non-finite is not saved.
    """

    _failed = False
    # Whether the strategy was still writing this callback's last checkpoint, and the state before it.
    _on_its_way = False
    _before: dict[str, Any]

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        if not is_finite(trainer.callbacks):  # type: ignore[attr-defined]
            self._failed = True
            return
        # The saved callback state must not list checkpoints whose write failed.
        finish_saving(trainer)
        path, before = Path(filepath), self._before
        if trainer.is_global_zero:
            # Other checkpoint plugins raise on a full disk.
            with suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                begin_writing(path)
        # If the strategy could not write the last one in the background.
        self._makes_room(trainer, path)
        super()._save_checkpoint(trainer, filepath)
        self._on_its_way = _is_writing(trainer, path)
        self._failed = not (self._on_its_way or self.file_exists(filepath, trainer))
        if self._failed and self._makes_room(trainer, path):
            super()._save_checkpoint(trainer, filepath)
            self._failed = not self.file_exists(filepath, trainer)
        if self._failed:
            return

        def arrived() -> None:
            self._on_its_way = False
            if trainer.is_global_zero:
                # Files written after the checkpoint that was resumed are unknown to the callback's state.
                remove_others(path)

        def failed() -> None:
            self._on_its_way = False
            vars(self).update(before)

        if self._on_its_way:
            trainer.strategy.after_saving(arrived, failed)  # type: ignore[attr-defined]
        else:
            arrived()

    def _makes_room(self, trainer: Trainer, path: Path) -> bool:
        """Whether rank 0 could remove what the checkpoint would replace."""
        return bool(trainer.strategy.broadcast(trainer.is_global_zero and make_room(path)))

    def _save_topk_checkpoint(self, trainer: Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        """Saves; if nothing was written (full disk), the previous best or last checkpoint is kept."""
        if self._on_its_way:
            finish_saving(trainer)
        self._before = {name: copy(getattr(self, name)) for name in _PROGRESS}
        self._failed = False
        super()._save_topk_checkpoint(trainer, monitor_candidates)
        if self._failed:
            vars(self).update(self._before)

    def _should_remove_checkpoint(self, trainer: Trainer, previous: str, current: str) -> bool:
        return False

    def state_dict(self) -> dict[str, Any]:
        """The state with file names instead of paths."""
        return {**_renamed(super().state_dict(), lambda path: Path(path).name), "dirpath": None}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the state, with paths in this run's current checkpoint folder."""
        folder = Path(self.dirpath or "")
        here = _renamed(state_dict, lambda path: str(folder / Path(path).name))
        super().load_state_dict({**here, "dirpath": self.dirpath})

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adopts the checkpoints of a run older than the list: the resumed one, and those that its state names."""
        if trainer.is_global_zero:
            states = [state for state in checkpoint["callbacks"].values() if isinstance(state, dict)]
            named = {Path(state[name]).name for state in states for name in _PATHS if state.get(name)}
            own_files = {f"{kind}-step={checkpoint['global_step']}.ckpt" for kind in ("best", "last")}
            # The Fabric loop does not set `dirpath`.
            folder = Path(self.dirpath or Path(trainer.default_root_dir) / "checkpoints")
            listing.adopt(folder, named | own_files)


def _is_writing(trainer: Trainer, path: Path) -> bool:
    """Whether the strategy has an asynchronous checkpoint write pending."""
    is_writing = getattr(trainer.strategy, "is_writing", None)
    return is_writing is not None and is_writing(path)


def finish_saving(trainer: Trainer) -> None:
    """Waits for a checkpoint that is being written."""
    getattr(trainer.strategy, "finish_saving", lambda: None)()


def _renamed(state: dict[str, Any], rename: Callable[[str], str]) -> dict[str, Any]:
    renamed = {name: rename(state[name]) for name in _PATHS if state.get(name)}
    return {**state, **renamed, "best_k_models": {rename(path): v for path, v in state["best_k_models"].items()}}


class BestCheckpoint(_WholeCheckpoint):
    """Keeps the checkpoint with the best finite validation metric as `best-step=N.ckpt`."""

    def __init__(self, monitor: str = "val/loss", mode: str = "min") -> None:
        """Sets the metric to monitor.

        Args:
            monitor: name of a logged metric.
            mode: min or max.
        """
        if not monitor:
            raise ValueError("BestCheckpoint.monitor is empty; name a logged metric, such as val/loss")
        super().__init__(filename="best-{step}", monitor=monitor, mode=mode, save_top_k=1, enable_version_counter=False)

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Whether the metric is the best so far."""
        # Called on all ranks: saving is collective.
        finite = trainer.strategy.reduce_boolean_decision(current is not None and bool(current.isfinite()))
        return finite and super().check_monitor_top_k(trainer, current)


class LastCheckpoint(_WholeCheckpoint):
    """Keeps the newest state as `last-step=N.ckpt`: periodically, and at the end of training.

    The previous one is deleted only once the new one is complete.
    """

    def __init__(self, every_n_steps: int | None = 500, every_minutes: float | None = None) -> None:
        """Sets how often.

        Args:
            every_n_steps: optimizer steps between checkpoints.
            every_minutes: minutes between checkpoints, instead of steps.
        """
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"LastCheckpoint.every_n_steps is {every_n_steps}; it must be 1 or more")
        if every_minutes is not None:
            minutes("LastCheckpoint.every_minutes", every_minutes)
        super().__init__(
            filename="last-{step}",
            save_top_k=1,
            every_n_train_steps=None if every_minutes is not None else every_n_steps,
            train_time_interval=None if every_minutes is None else timedelta(minutes=every_minutes),
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
        """Saves only between optimizer steps: a state within an accumulated step cannot be resumed.

        If the step is validated, saves after the validation: a resumed run would skip it otherwise.
        """
        loop = trainer.fit_loop
        assert loop._data_fetcher is not None
        if not loop._should_accumulate() and not loop.epoch_loop._should_check_val_fx(loop._data_fetcher):
            super().on_train_batch_end(trainer, pl_module, *rest)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the final state."""
        self.save_now(trainer)
        finish_saving(trainer)

    def is_saved(self, trainer: Trainer) -> bool:
        """Whether the current state is on disk, also if a resumed run had no step left to do."""
        path = Path(self.dirpath or "") / f"last-step={trainer.global_step}.ckpt"
        return self._last_global_step_saved == trainer.global_step or path.exists()

    def save_now(self, trainer: Trainer) -> None:
        """Saves the state, unless it was just saved."""
        if self._on_its_way:
            finish_saving(trainer)
        if self._last_global_step_saved != trainer.global_step and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the checkpoint that was due at the validated step."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and not trainer.fit_loop._should_accumulate():
            super().on_train_batch_end(trainer, pl_module, None, None, 0)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> Any:
        """Saves nothing: the state in the middle of a step cannot be resumed."""
