"""On a signal: saves at the end of the step, exits, and requeues the SLURM job."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer

from lmrecipes.callbacks.checkpoints import LastCheckpoint, finish_saving
from lmrecipes.loggers import RunLogger
from lmrecipes.resilience import requeue, signals
from lmrecipes.runtime import launcher


class LeftBySignal(SystemExit):
    """Training stopped between two steps because of a signal, with its state saved."""

    def __init__(self, number: int, saved: Path | None, refusal: str | None) -> None:
        """Stores the step and the reason.

        Args:
            number: of the signal.
            saved: the checkpoint, if it could be written.
            refusal: why the job was not requeued; None if it was.
        """
        # A run stopped by its sweep's agent did not fail: exit 0.
        super().__init__(0 if refusal == requeue.ENDED_BY_SWEEP else 128 + number)
        self.number, self.saved, self.refusal = number, saved, refusal

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name}"


class Requeue(Callback):
    """On SIGUSR1 and SIGTERM: saves between two optimizer steps, requeues the SLURM job, and exits.

    The handler only records the signal. At the end of a step all ranks agree, so a signal to one of them is
    enough. An interrupted validation is repeated from its start.
    """

    def __init__(self, max_requeues: int = 100) -> None:
        """Sets the limit.

        Args:
            max_requeues: maximum number of times that a run is requeued.
        """
        if max_requeues < 0:
            raise ValueError(f"--max_requeues is {max_requeues}; it must be 0 or more")
        self.max_requeues = max_requeues
        self._group: Any = None
        self._leaving = 0
        self._saved: Path | None = None
        self._validation_batches = self._validated = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Creates a group in which ranks agree without synchronizing the devices."""
        if trainer.world_size > 1:
            self._group = dist.group.WORLD if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")
            # Lightning's own check synchronizes the device before every batch.
            loop: Any = trainer.fit_loop.epoch_loop
            loop._broadcast_sigterm_tensor = lambda: None
        signals.training_begins()

    def _agree(self, value: int, how: Any = dist.ReduceOp.MAX) -> int:
        if self._group is None:
            return value
        shared = torch.tensor(value)
        dist.all_reduce(shared, op=how, group=self._group)
        return int(shared)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Saves after a step, if all ranks agree to exit; a validated step is saved after its validation."""
        loop = trainer.fit_loop
        assert loop._data_fetcher is not None
        if loop._should_accumulate() or loop.epoch_loop._should_check_val_fx(loop._data_fetcher):
            return
        if number := self._agree(signals.noted()):
            self._saved = _save(trainer)
            self._leaving = number

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Exits before the next step, when the saved one is logged."""
        if self._leaving:
            self._leave(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Computes the number of batches that all ranks have."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            n_batches = min(sum(trainer.num_val_batches), 2**62)
            self._validation_batches = self._agree(int(n_batches), dist.ReduceOp.MIN)
            self._validated = 0

    def on_validation_batch_end(self, trainer: Trainer, *rest: Any) -> None:
        """Saves and exits during a validation."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        self._validated += 1
        if self._validated > self._validation_batches or trainer.fit_loop._should_accumulate():
            return
        if number := self._agree(signals.noted()):
            _rewind_validation(trainer)
            self._saved = _save(trainer)
            self._leaving = number
            self._leave(trainer)

    def _leave(self, trainer: Trainer) -> None:
        """Requeues on rank 0, broadcasts the result, and stops.

        Raises:
            LeftBySignal: in all ranks.
        """
        refusal: str | None = None
        ended = trainer.is_global_zero and requeue.ended_by_sweep(self._leaving)
        for logger in trainer.loggers:
            if isinstance(logger, RunLogger):
                logger.close(0 if ended else 128 + self._leaving)
        if ended:
            refusal = requeue.ENDED_BY_SWEEP
        elif not launcher.in_slurm_job():
            refusal = ""
        elif trainer.is_global_zero:
            refusal = "its checkpoint could not be written"
            if self._saved is not None:
                refusal = requeue.requeue(Path(trainer.default_root_dir), trainer.global_step, self.max_requeues)
        if self._group is not None:
            notice = [refusal]
            dist.broadcast_object_list(notice, src=0, group=self._group, device=torch.device("cpu"))
            refusal = notice[0]
        raise LeftBySignal(self._leaving, self._saved, refusal)


def take_signals_from(trainer: Trainer) -> None:
    """Disables Lightning's own signal handlers, which save and communicate in the middle of a step."""
    connector: Any = trainer._signal_connector
    connector.register_signal_handlers = lambda: None


def _save(trainer: Trainer) -> Path | None:
    """Saves the newest state; None if the disk is full."""
    last = next((c for c in trainer.callbacks if isinstance(c, LastCheckpoint)), None)  # type: ignore[attr-defined]
    if last is not None:
        last.save_now(trainer)
        folder = Path(last.dirpath or "")
    else:
        folder = Path(trainer.default_root_dir) / "checkpoints"
        finish_saving(trainer)
        trainer.save_checkpoint(folder / f"last-step={trainer.global_step}.ckpt")
    finish_saving(trainer)
    path = folder / f"last-step={trainer.global_step}.ckpt"
    return path if path.exists() else None


def _rewind_validation(trainer: Trainer) -> None:
    """Resets the progress to the validation's first batch, where a resumed run repeats it."""
    progress: Any = trainer.fit_loop.epoch_loop.val_loop.batch_progress
    done = progress.total.completed - progress.current.completed
    for counts, begun in ((progress.total, done), (progress.current, 0)):
        counts.ready = counts.started = begun + 1
        counts.processed = counts.completed = begun
