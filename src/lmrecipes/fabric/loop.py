"""Recipes under Fabric: the Trainer's modules, data, metrics and checkpoints in a loop to read and modify.

`lmrecipes fabric fit --config RECIPE` starts the processes itself; under srun and torchrun, and as the script of
`fabric run`, each process runs its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from lightning.fabric.strategies import ParallelStrategy
from lightning.pytorch import Callback, LightningDataModule, LightningModule

from lmrecipes.callbacks import BestCheckpoint, LastCheckpoint, RunPlot, Throughput
from lmrecipes.checkpoints.io import load_checkpoint
from lmrecipes.checkpoints.weights import load_optimizer_state, load_weights
from lmrecipes.fabric.checkpoint import restore, save, save_best
from lmrecipes.models.common.protocols import Countable
from lmrecipes.resilience import signals
from lmrecipes.runs.plots import plot_runs
from lmrecipes.trainer_state import is_due

# Suffixes of the evaluation hooks.
_AROUND = ("start", "epoch_start", "batch_start", "batch_end", "epoch_end", "end")
# Callback hooks that the loop calls.
HOOKS = {
    *("setup", "teardown", "on_exception", "on_fit_start", "on_train_start", "on_train_batch_start"),
    *("on_before_backward", "on_after_backward", "on_before_optimizer_step", "on_train_batch_end", "on_train_end"),
    *(f"on_{stage}_{when}" for stage in ("validation", "test") for when in _AROUND),
    *("state_dict", "load_state_dict", "on_save_checkpoint", "on_load_checkpoint"),
}


class Loop(Fabric):
    """A Fabric with training state, which modules, data and callbacks see as their `trainer`.

    Attributes are named as the Trainer's: `global_step` counts optimizer steps, `accumulate_grad_batches` is the number
    of micro-batches per step.
    """

    def __init__(
        self,
        datamodule: LightningDataModule,
        settings: Any,
        callbacks: Sequence[Callback] = (),
        run_dir: Path | None = None,
        **kwargs: Any,
    ) -> None:
        """Creates the loop; `launch` starts its processes.

        Args:
            datamodule: the training and evaluation data.
            settings: the recipe's `trainer:` group.
            callbacks: the Trainer's; the loop itself saves and plots, as configured by those callbacks.
            run_dir: where checkpoints go; without one, none are written.
            kwargs: Fabric's own: accelerator, strategy, devices, num_nodes, precision, loggers.
        """
        self._best = next((c for c in callbacks if isinstance(c, BestCheckpoint)), None)
        self._last = next((c for c in callbacks if isinstance(c, LastCheckpoint)), None)
        self._draws = any(isinstance(c, RunPlot) for c in callbacks)
        self.callbacks = list(callbacks)
        self._hearing = [c for c in callbacks if not isinstance(c, BestCheckpoint | LastCheckpoint | RunPlot)]
        super().__init__(**kwargs)
        self.datamodule: Any = datamodule
        datamodule.trainer = self  # type: ignore[assignment]
        self.settings, self.run_dir = settings, run_dir
        # Where callbacks write files other than checkpoints.
        self.default_root_dir = run_dir or Path.cwd()
        self.max_steps, self.log_every_n_steps = settings.max_steps, settings.log_every_n_steps
        self.precision = settings.precision
        self.accumulate_grad_batches = 1
        self.global_step = self.current_epoch = 0
        self.evaluated_tokens = 0
        self.optimizers: list[Any] = []
        self.lr_scheduler_configs: list[Any] = []
        self.train_dataloader: Any = None
        self.callback_metrics: dict[str, Any] = {}
        self.module: Any = None
        self.completes_step = self._stepped = True
        # The signal that stopped training (0 for none), and the checkpoint saved then.
        self.stopped_by = 0
        self.saved: Path | None = None
        # Whether a signal came before the validation due after the last step.
        self.validation_left = False
        # Checkpoints that this loop wrote.
        self.written: set[Path] = set()
        self._new: dict[str, Any] = {}
        self._saved_at = time.monotonic()

    # The Trainer's interface for modules, data and callbacks.

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any] | None:
        """Rank among the data-parallel processes, and their number."""
        return self.strategy.distributed_sampler_kwargs if isinstance(self.strategy, ParallelStrategy) else None

    @property
    def logs_step(self) -> bool:
        """Whether the current step is logged."""
        return is_due(self.global_step + (not self._stepped), self.log_every_n_steps)

    @property
    def logged_metrics(self) -> dict[str, Any]:
        """All metrics so far."""
        return self.callback_metrics

    def log_dict(self, metrics: Any, step: int | None = None) -> None:
        """Adds metrics of modules and callbacks to the row of this step."""
        self._new |= {name: float(value) for name, value in metrics.items()}

    def log(self, name: str, value: Any, step: int | None = None) -> None:
        """Adds one metric."""
        self.log_dict({name: value})

    @property
    def precision_plugin(self) -> Any:
        """The precision plugin: loss scaling and dtype conversion."""
        return self._precision

    def _tell(self, hook: str, *what: Any) -> None:
        """Calls a hook of the callbacks, then of the module."""
        for callback in self._hearing:
            getattr(callback, hook)(self, self.module, *what)
        if (method := getattr(self.module, hook, None)) is not None:
            method(*what)

    @contextmanager
    def _told(self, stage: str) -> Iterator[None]:
        """Runs setup and teardown hooks around a stage (fit, validate or test)."""
        self.state = SimpleNamespace(fn=stage)
        self._tell("setup", stage)
        try:
            yield
        except BaseException as error:
            self._tell("on_exception", error)
            raise
        finally:
            self._tell("teardown", stage)

    # Training.

    def prepare(self, module: LightningModule, weights: Path | None = None) -> None:
        """Prepares the data and builds the network.

        Args:
            module: the module to train or evaluate.
            weights: a checkpoint to initialize the weights from.
        """
        module.fabric = self
        if self.local_rank == 0:
            self.datamodule.prepare_data()
        self.barrier()
        self.datamodule.setup("fit")
        with self.init_module():
            module.configure_model()
        if weights is not None:
            load_weights(module, weights, str(weights))

    def fit(
        self,
        module: LightningModule,
        checkpoint: Path | None = None,
        weights: Path | None = None,
        moments: bool = False,
    ) -> None:
        """Trains to `max_steps`, validating and saving as configured.

        Args:
            module: the module to train.
            checkpoint: one of this loop or of the Trainer, to resume from.
            weights: a checkpoint to initialize the weights from.
            moments: whether to load the optimizer state from it too.
        """
        self.module = module
        with self._told("fit"):
            self._fit(checkpoint, weights, moments)

    def _fit(self, checkpoint: Path | None, weights: Path | None, moments: bool) -> None:
        # All ranks use rank 0's choice.
        checkpoint, weights = self.broadcast((checkpoint, weights))
        self.prepare(self.module, weights)
        configured: Any = self.module.configure_optimizers()
        self.optimizers = [configured["optimizer"]]
        self.lr_scheduler_configs = [SimpleNamespace(scheduler=configured["lr_scheduler"]["scheduler"])]
        if weights is not None and moments:
            load_optimizer_state(self.module, self.optimizers[0], weights)
        self._tell("on_fit_start")
        if checkpoint is not None:
            restore(self, load_checkpoint(checkpoint))
        self.model, self.optimizer = self.setup(self.module, configured["optimizer"])
        self.train_dataloader = self.datamodule.train_dataloader()
        batches = self.setup_dataloaders(self.train_dataloader, use_distributed_sampler=False)
        signals.training_begins()
        self.model.train()
        self._tell("on_train_start")
        if self.validation_left:
            self._validate()
        while self.global_step < self.max_steps and not self.stopped_by:
            position = self.global_step * self.accumulate_grad_batches
            self.current_epoch = position // self.train_dataloader.batches_per_epoch
            for index, batch in enumerate(self._fetched(batches)):
                self._pass(batch, index)
                if self.completes_step and self._after_step():
                    break
        self.saved = save(self, "last")
        self._tell("on_train_end")
        self._plot()

    def _measure_wait(self, hook: str) -> None:
        for callback in self._hearing:
            if isinstance(callback, Throughput):
                getattr(callback, hook)()

    def _fetched(self, batches: Any) -> Iterator[Any]:
        """Batches, with the hooks that measure the time spent waiting for data."""
        batches = iter(batches)
        while True:
            self._measure_wait("on_before_fetch")
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._measure_wait("on_after_fetch")
            yield batch

    def _pass(self, batch: Any, index: int) -> None:
        """Forward and backward pass of a micro-batch, and after the last one of a step the optimizer step."""
        self._stepped = False
        self.completes_step = (index + 1) % self.accumulate_grad_batches == 0
        self._tell("on_train_batch_start", batch, index)
        with self.no_backward_sync(self.model, enabled=not self.completes_step):
            loss = self.model.training_step(batch, index) / self.accumulate_grad_batches
            scaler = getattr(self._precision, "scaler", None)
            self._tell("on_before_backward", loss if scaler is None else scaler.scale(loss))
            self.backward(loss)
            self._tell("on_after_backward")
        if self.completes_step:
            self._tell("on_before_optimizer_step", self.optimizers[0])
            self._clip()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.global_step += 1
            self._stepped = True
        self._tell("on_train_batch_end", loss, batch, index)
        if self.completes_step:
            self.lr_scheduler_configs[0].scheduler.step()

    def _clip(self) -> None:
        limit = self.settings.gradient_clip_val
        if limit and self.settings.gradient_clip_algorithm == "value":
            self.clip_gradients(self.model, self.optimizer, clip_val=limit)
        elif limit:
            self.clip_gradients(self.model, self.optimizer, max_norm=limit, error_if_nonfinite=False)

    def _after_step(self) -> bool:
        """Logs, validates and saves when due; returns whether training is finished."""
        if self.logs_step:
            self._write()
            self._show_step()
        if self.settings.limit_val_batches != 0 and self.global_step % self.settings.val_check_interval == 0:
            self._validate()
            if self.stopped_by:
                return True
        if self._last is not None and self._save_is_due(self._last):
            save(self, "last")
            self._saved_at = time.monotonic()
        self.stopped_by = self._agree(signals.noted())
        return bool(self.stopped_by) or self.global_step >= self.max_steps

    def _validate(self) -> None:
        """Validates and saves a new best checkpoint; stops training after a signal."""
        metrics = self.evaluate("val")
        self.validation_left = bool(self.stopped_by)
        self._write()
        if not self.validation_left and self._best is not None:
            save_best(self, self._best, metrics)
        self.model.train()

    def _save_is_due(self, last: LastCheckpoint) -> bool:
        if (interval := last._train_time_interval) is not None:
            return bool(self._agree(int(time.monotonic() - self._saved_at >= interval.total_seconds())))
        return self.global_step % last._every_n_train_steps == 0

    def _agree(self, number: int) -> int:
        """The maximum over all ranks."""
        if self.world_size == 1:
            return number
        shared = torch.tensor(number, device="cpu" if dist.get_backend() == "gloo" else self.device)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return int(shared)

    # Metrics of this step.

    def _write(self) -> None:
        self.callback_metrics |= self._new
        if self._new and self.is_global_zero:
            for logger in self.loggers:
                # The Trainer numbers a row by the steps completed before it.
                logger.log_metrics({**self._new, "epoch": self.current_epoch}, self.global_step - 1)
        self._new = {}

    def _say(self, line: str) -> None:
        # Fabric.print prints once per node.
        if self.is_global_zero:
            print(line, flush=True)

    def _show_step(self) -> None:
        names = {"train/lr": "lr", "throughput/tokens_per_s": "tok/s", "train/loss": "loss", "train/perplexity": "ppl"}
        known = self.callback_metrics
        metrics = [f"{short} {known[name]:.5g}" for name, short in names.items() if name in known]
        self._say(" | ".join([f"epoch {self.current_epoch}", f"step {self.global_step}", *metrics]))

    def _plot(self) -> None:
        if not self.is_global_zero or self.run_dir is None:
            return
        for logger in self.loggers:
            if hasattr(logger, "save"):
                logger.save()
        if self._draws and (self.run_dir / "metrics.csv").is_file():
            plot_runs([self.run_dir], self.run_dir / "plots" / "run.png")

    # Evaluation.

    @torch.no_grad()
    def evaluate(self, split: str) -> dict[str, float]:
        """Metrics of a split (val or test), as the Trainer's; none if a signal interrupts a validation."""
        name = {"val": "validation"}.get(split, split)
        limit = getattr(self.settings, f"limit_{split}_batches")
        loader = getattr(self.datamodule, f"{split}_dataloader")()
        self.model.eval()
        # Keep only the evaluation's metrics.
        before, self._new = self._new, {}
        training = self.train_dataloader is not None
        agreeing = -self._agree(-_length(loader)) if training else 0
        for hook in ("start", "epoch_start"):
            self._tell(f"on_{name}_{hook}")
        for index, batch in enumerate(self.setup_dataloaders(loader, use_distributed_sampler=False)):
            if isinstance(limit, int) and index >= limit:
                break
            self._tell(f"on_{name}_batch_start", batch, index)
            outputs = getattr(self.model, f"{name}_step")(batch, index)
            if isinstance(self.module, Countable) and getattr(batch, "scored", True):
                self.evaluated_tokens += self.module.count(batch)[1]
            self._tell(f"on_{name}_batch_end", outputs, batch, index)
            if index < agreeing and (number := self._agree(signals.noted())):
                self.stopped_by, self._new = number, before
                return {}
        for hook in ("epoch_end", "end"):
            self._tell(f"on_{name}_{hook}")
        metrics, self._new = self._new, before | self._new
        if training:
            shown = [f"{key} {value:.3f}" for key, value in sorted(metrics.items())]
            self._say(" | ".join([f"eval at step {self.global_step}", *shown]))
        return metrics

    def measure(self, module: LightningModule, checkpoint: Path | None, split: str) -> dict[str, float]:
        """Evaluates a checkpoint, or the module's current weights."""
        self.module = module
        with self._told({"val": "validate"}.get(split, split)):
            self.prepare(module, self.broadcast(checkpoint))
            self.model = self.setup(module)
            return self.evaluate(split)


def _length(loader: Any) -> int:
    """Number of batches of a loader; 0 if unknown."""
    try:
        return int(getattr(loader, "batches_per_epoch", None) or len(loader))
    except TypeError:
        return 0


def started_by_fabric_run() -> bool:
    """Whether `fabric run` started this process, and so chose the devices."""
    return os.environ.get("LT_CLI_USED") == "1"
