"""The same recipes under Fabric: modules, data, figures and checkpoints of the Trainer in a loop to read and to change.

`lmrecipes fabric fit --config RECIPE` starts the processes itself; under srun and torchrun, and as the script of
`fabric run`, each process runs its own.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning import __version__ as lightning_version
from lightning.fabric import Fabric
from lightning.fabric.strategies import ParallelStrategy
from lightning.pytorch import LightningDataModule, LightningModule

from lmrecipes import signals
from lmrecipes.checkpoint_io import AtomicCheckpointIO, load_checkpoint, remove
from lmrecipes.optimizer_states import names_in_order
from lmrecipes.plots import plot_runs
from lmrecipes.weights import take_moments, take_weights

# Between two batches there is nothing to reduce: gloo agrees without waiting for devices.
_CPU = torch.device("cpu")


class Loop(Fabric):
    """A Fabric that knows where training stands: what modules, data and callbacks find as their `trainer`.

    Attributes are named as the Trainer's: `global_step` counts optimizer steps, `accumulate_grad_batches` the passes
    of each.
    """

    def __init__(
        self,
        datamodule: LightningDataModule,
        settings: Any,
        passes: int,
        run_dir: Path | None = None,
        **kwargs: Any,
    ) -> None:
        """Makes the loop; `launch` starts its processes.

        Args:
            datamodule: what to train on.
            settings: the recipe's `trainer:` group.
            passes: micro-batches per optimizer step.
            run_dir: where checkpoints go; left out, none are written.
            kwargs: Fabric's own: accelerator, strategy, devices, num_nodes, precision, callbacks, loggers.
        """
        super().__init__(**kwargs)
        self.datamodule: Any = datamodule
        datamodule.trainer = self  # type: ignore[assignment]
        self.settings, self.run_dir = settings, run_dir
        self.max_steps, self.log_every_n_steps = settings.max_steps, settings.log_every_n_steps or 50
        self.accumulate_grad_batches = passes
        self.precision = settings.precision
        self.global_step = self.current_epoch = 0
        self.completes_step = True
        self.callback_metrics: dict[str, Any] = {}
        self.optimizers: list[Any] = []
        self.train_dataloader: Any = None
        self.stopped_by = 0
        self.saved: Path | None = None
        self._new: dict[str, Any] = {}

    # What modules, data and callbacks ask a trainer for.

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any] | None:
        """Place among the processes that read different data."""
        return self.strategy.distributed_sampler_kwargs if isinstance(self.strategy, ParallelStrategy) else None

    @property
    def logs_step(self) -> bool:
        """Whether the step being made is logged."""
        return (self.global_step + (not self._stepped)) % self.log_every_n_steps == 0

    @property
    def default_root_dir(self) -> Path:
        """Where a run's files go."""
        return self.run_dir or Path.cwd()

    @property
    def logged_metrics(self) -> dict[str, Any]:
        """All figures so far."""
        return self.callback_metrics

    def log_dict(self, metrics: Any, step: int | None = None) -> None:
        """Takes figures from modules and callbacks, for the row of the present step."""
        self._new |= {name: float(value) for name, value in metrics.items()}

    def log(self, name: str, value: Any, step: int | None = None) -> None:
        """Takes one figure."""
        self.log_dict({name: value})

    def _write(self) -> None:
        self.callback_metrics |= self._new
        if self._new and self.is_global_zero:
            for logger in self.loggers:
                # As the Trainer counts: the steps done before the one of these figures.
                logger.log_metrics({**self._new, "epoch": self.current_epoch}, self.global_step - 1)
        self._new = {}

    def _tell(self, hook: str, **what: Any) -> None:
        self.call(hook, trainer=self, pl_module=self.module, **what)

    # Training.

    _stepped = True

    def prepare(self, module: LightningModule, weights: Path | None = None) -> None:
        """Builds the network and sends it to its device.

        Args:
            module: what to train or evaluate.
            weights: a checkpoint to take only weights from.
        """
        self.module: Any = module
        module.fabric = self
        if self.local_rank == 0:
            self.datamodule.prepare_data()
        self.barrier()
        self.datamodule.setup("fit")
        with self.init_module():
            module.configure_model()
        if weights is not None:
            take_weights(module, weights, str(weights))

    def fit(
        self,
        module: LightningModule,
        checkpoint: Path | None = None,
        weights: Path | None = None,
        moments: bool = False,
    ) -> None:
        """Trains up to `max_steps`, validating and saving as the recipe says.

        Args:
            module: what to train.
            checkpoint: of this loop or of the Trainer, to continue from.
            weights: a checkpoint to take only weights from.
            moments: whether the optimizer's state is taken from there too.
        """
        self.prepare(module, weights)
        made: Any = module.configure_optimizers()
        optimizer, self.scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
        self.optimizers = [optimizer]
        if weights is not None and moments:
            take_moments(module, optimizer, weights)
        if checkpoint is not None:
            self._restore(load_checkpoint(checkpoint))
        self.model, self.optimizer = self.setup(module, optimizer)
        self.train_dataloader = self.datamodule.train_dataloader()
        batches = self.setup_dataloaders(self.train_dataloader, use_distributed_sampler=False)
        signals.training_begins()
        self.model.train()
        self._tell("on_train_start")
        while self.global_step < self.max_steps and not self.stopped_by:
            self.current_epoch = self._position() // self.train_dataloader.batches_per_epoch
            for index, batch in enumerate(self._fetched(batches)):
                self._pass(batch, index)
                if self.completes_step and self._after_step():
                    break
        self.saved = self._save("last")
        self._tell("on_train_end")
        self._plot()

    def _position(self) -> int:
        return self.global_step * self.accumulate_grad_batches

    def _fetched(self, batches: Any) -> Iterator[Any]:
        """Batches, with a word to whoever measures the waiting."""
        batches = iter(batches)
        while True:
            self._tell("on_before_fetch")
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._tell("on_after_fetch")
            yield batch

    def _pass(self, batch: Any, index: int) -> None:
        """One forward and backward pass, and after the last of a step the optimizer's."""
        self._stepped = False
        self.completes_step = (index + 1) % self.accumulate_grad_batches == 0
        self._tell("on_train_batch_start", batch=batch, batch_idx=index)
        with self.no_backward_sync(self.model, enabled=not self.completes_step):
            loss = self.model.training_step(batch, index) / self.accumulate_grad_batches
            self._tell("on_before_backward", loss=loss)
            self.backward(loss)
        if self.completes_step:
            self._tell("on_before_optimizer_step", optimizer=self.optimizers[0])
            if self.settings.gradient_clip_val:
                self.clip_gradients(
                    self.model, self.optimizer, max_norm=self.settings.gradient_clip_val, error_if_nonfinite=False
                )
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.global_step += 1
            self._stepped = True
        self._tell("on_train_batch_end", outputs=loss, batch=batch, batch_idx=index)
        if self.completes_step:
            self.scheduler.step()

    def _after_step(self) -> bool:
        """Logs, validates and saves what is due; whether to leave the loop."""
        if self.logs_step:
            self._write()
            self._progress()
        if self._due(self.settings.val_check_interval):
            figures = self.evaluate("val")
            self._write()
            self._save_best(figures)
            self.model.train()
        if self._due(self._callback("LastCheckpoint", "_every_n_train_steps")):
            self._save("last")
        self.stopped_by = self._agree(signals.noted())
        return bool(self.stopped_by) or self.global_step >= self.max_steps

    def _due(self, interval: Any) -> bool:
        return isinstance(interval, int) and interval > 0 and self.global_step % interval == 0

    def _agree(self, number: int) -> int:
        if self.world_size == 1:
            return number
        shared = torch.tensor(number, device=_CPU if dist.get_backend() == "gloo" else self.device)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return int(shared)

    def _say(self, line: str) -> None:
        # Fabric's own print speaks once per node.
        if self.is_global_zero:
            print(line, flush=True)

    def _progress(self) -> None:
        """One line per logged step."""
        names = {"train/lr": "lr", "throughput/tokens_per_s": "tok/s", "train/loss": "loss", "train/perplexity": "ppl"}
        figures = [
            f"{short} {self.callback_metrics[n]:.5g}" for n, short in names.items() if n in self.callback_metrics
        ]
        self._say(" | ".join([f"epoch {self.current_epoch}", f"step {self.global_step}", *figures]))

    # Evaluation.

    @torch.no_grad()
    def evaluate(self, split: str) -> dict[str, float]:
        """Figures of a split (val or test), as the Trainer's."""
        name = {"val": "validation"}.get(split, split)
        limit = getattr(self.settings, f"limit_{split}_batches")
        loader = self.setup_dataloaders(
            getattr(self.datamodule, f"{split}_dataloader")(), use_distributed_sampler=False
        )
        self.model.eval()
        # Of a step's figures those of its evaluation.
        before, self._new = self._new, {}
        self._tell(f"on_{name}_epoch_start")
        for index, batch in enumerate(loader):
            if isinstance(limit, int) and index >= limit:
                break
            outputs = getattr(self.model, f"{name}_step")(batch, index)
            self._tell(f"on_{name}_batch_end", outputs=outputs, batch=batch, batch_idx=index)
        self._tell(f"on_{name}_epoch_end")
        figures, self._new = self._new, before | self._new
        if split == "val":
            shown = [f"{key} {value:.3f}" for key, value in sorted(figures.items())]
            self._say(" | ".join([f"eval at step {self.global_step}", *shown]))
        return figures

    def measure(self, module: LightningModule, checkpoint: Path, split: str) -> dict[str, float]:
        """Evaluates a checkpoint."""
        self.prepare(module, checkpoint)
        self.model = self.setup(module)
        return self.evaluate(split)

    # Checkpoints, which the Trainer reads too.

    def _callback(self, name: str, attribute: str) -> Any:
        callbacks = self.settings.callbacks or []
        found = next((c for c in callbacks if type(c).__name__ == name), None)
        return getattr(found, attribute, None)

    def _save_best(self, figures: dict[str, float]) -> None:
        monitor = self._callback("BestCheckpoint", "monitor")
        if monitor is None or monitor not in figures:
            return
        sign = 1.0 if self._callback("BestCheckpoint", "mode") == "min" else -1.0
        if sign * figures[monitor] < sign * self._best:
            self._best = figures[monitor]
            self._save("best")

    _best = math.inf

    def _save(self, kind: str) -> Path | None:
        """Writes `<kind>-step=N.ckpt` and removes the one before."""
        if self.run_dir is None:
            return None
        path = self.run_dir / "checkpoints" / f"{kind}-step={self.global_step}.ckpt"
        content = self._state()
        if self.is_global_zero and not path.exists():
            AtomicCheckpointIO().save_checkpoint(content, path)
            for older in path.parent.glob(f"{kind}-*.ckpt") if path.exists() else ():
                if older != path:
                    remove(older)
        self.barrier()
        return path if path.exists() else None

    def _state(self) -> dict[str, Any]:
        content: dict[str, Any] = {
            "epoch": self.current_epoch,
            "global_step": self.global_step,
            "pytorch-lightning_version": lightning_version,
            "state_dict": self.module.state_dict(),
            "loops": self._progress_state(),
            "callbacks": {},
            "best": self._best,
            "optimizer_states": [self.optimizers[0].state_dict()],
            "lr_schedulers": [self.scheduler.state_dict()],
            "optimizer_parameters": [names_in_order(self.module, self.optimizers[0])],
        }
        self.module.on_save_checkpoint(content)
        for callback in self._recipe_callbacks():
            if state := callback.state_dict():
                content["callbacks"][callback.state_key] = state
            callback.on_save_checkpoint(self, self.module, content)
        return content

    def _progress_state(self) -> dict[str, Any]:
        """What the Trainer's loops keep of their position."""

        def counts(number: int, *names: str) -> dict[str, dict[str, int]]:
            return {which: dict.fromkeys(names, number) for which in ("total", "current")}

        four, step = ("ready", "started", "processed", "completed"), self.global_step
        batches = counts(self._position(), *four)
        begun = self.current_epoch * self.train_dataloader.batches_per_epoch
        batches["current"] = dict.fromkeys(four, self._position() - begun)
        none = {"state_dict": {}, "batch_progress": {**counts(0, *four), "is_last_batch": False}}
        fit = {
            "state_dict": {},
            "epoch_loop.state_dict": {"_batches_that_stepped": step},
            "epoch_loop.batch_progress": {**batches, "is_last_batch": False},
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
            "epoch_loop.val_loop.batch_progress": {**counts(0, *four), "is_last_batch": False},
            "epoch_progress": counts(self.current_epoch, *four),
        }
        return {"fit_loop": fit, **dict.fromkeys(("validate_loop", "test_loop"), none), "predict_loop": none}

    def _restore(self, checkpoint: dict[str, Any]) -> None:
        """Takes up everything that a checkpoint has."""
        self.module.load_state_dict(checkpoint["state_dict"])
        self.optimizers[0].load_state_dict(checkpoint["optimizer_states"][0])
        self.scheduler.load_state_dict(checkpoint["lr_schedulers"][0])
        self.global_step = checkpoint["global_step"]
        self.module.on_load_checkpoint(checkpoint)
        states = checkpoint["callbacks"]
        self._best = checkpoint.get("best", self._best)
        for callback in self._recipe_callbacks():
            if callback.state_key in states:
                callback.load_state_dict(states[callback.state_key])
        for key, state in states.items():
            if key.startswith("BestCheckpoint") and state["best_model_score"] is not None:
                self._best = float(state["best_model_score"])
        if self.is_global_zero:
            for logger in self.loggers:
                logger.forget_after(self.global_step)  # type: ignore[attr-defined]

    def _recipe_callbacks(self) -> list[Any]:
        return [callback for callback in self._callbacks if callback is not self.module]

    def _plot(self) -> None:
        if not self.is_global_zero or self.run_dir is None:
            return
        for logger in self.loggers:
            logger.save()
        if self._callback("RunPlot", "state_key") and (self.run_dir / "metrics.csv").is_file():
            plot_runs([self.run_dir], self.run_dir / "plots" / "run.png")


def started_by_fabric_run() -> bool:
    """Whether `fabric run` started this process, and so says on which devices."""
    return os.environ.get("LT_CLI_USED") == "1"


if __name__ == "__main__":
    # As the script of `fabric run`, whose folder is no place to import from.
    sys.path.pop(0)
    from lmrecipes.__main__ import command

    sys.argv.insert(1, "fabric")
    command()
