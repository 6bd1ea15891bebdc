"""Progress on the console: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar

from lmrecipes.callbacks.progress_bar import StepBar
from lmrecipes.trainer_state import completes_step, is_due


def console_progress() -> ProgressBar:
    """The progress bar for this output."""
    return StepBar() if sys.stdout.isatty() else ConsoleLog()


class ConsoleLog(ProgressBar):
    """One line every `trainer.log_every_n_steps` steps, and one per validation."""

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._validation_began = 0.0

    def disable(self) -> None:
        """Disable output, on ranks other than 0."""
        self._enabled = False

    def enable(self) -> None:
        """Enable output."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the timer."""
        self._last = (time.perf_counter(), trainer.global_step)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Records the learning rate of the step."""
        self._rate = float(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Prints a line if the step is logged."""
        if not completes_step(trainer) or not is_due(trainer.global_step, trainer.log_every_n_steps):  # type: ignore[attr-defined]
            return
        now, step = time.perf_counter(), trainer.global_step
        (before, earlier), self._last = self._last, (now, step)
        if not self._enabled or step == earlier:
            return
        metrics = {**trainer.callback_metrics, **trainer.logged_metrics}
        parts = [
            f"epoch {trainer.current_epoch}",
            f"step {step}",
            f"batches {_batches(trainer, batch_idx)}",
            f"lr {self._rate:.3e}",
            f"ms/batch {1000 * (now - before) / (step - earlier) / trainer.accumulate_grad_batches:.1f}",
        ]
        for name, text in (("throughput/tokens_per_s", "tok/s"), ("train/loss", "loss"), ("train/perplexity", "ppl")):
            if name in metrics:
                value = float(metrics[name])
                parts.append(f"{text} {value:.0f}" if text == "tok/s" else f"{text} {value:.3f}")
        print(" | ".join(parts), flush=True)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the timer."""
        self._validation_began = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the metrics of a validation during training."""
        took = time.perf_counter() - self._validation_began
        if hasattr(self, "_last"):
            self._last = (self._last[0] + took, self._last[1])
        if not self._enabled or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        metrics = [
            f"{name} {float(value):.3f}"
            for name, value in sorted(trainer.callback_metrics.items())
            if not name.startswith(("train/", "throughput/"))
        ]
        print(" | ".join([f"eval at step {trainer.global_step}", f"time {took:.1f} s", *metrics]), flush=True)


def _batches(trainer: Trainer, batch_idx: int) -> str:
    """Batches done of the epoch, from the loader's position if it has one."""
    per_epoch = getattr(trainer.train_dataloader, "batches_per_epoch", None)
    if per_epoch is None:
        return f"{batch_idx + 1} / {trainer.num_training_batches}"
    done = trainer.global_step * trainer.accumulate_grad_batches
    return f"{(done - 1) % per_epoch + 1} / {per_epoch}"
