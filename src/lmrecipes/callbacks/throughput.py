"""How fast training goes, and whether it waits for data."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lmrecipes.callbacks.peak_flops import peak_tflops


@runtime_checkable
class Countable(Protocol):
    """What throughput needs of a LightningModule."""

    def count(self, batch: Any) -> tuple[int, int]:
        """Sequences and trained tokens of a batch of this rank."""

    def flops_per_token(self) -> float:
        """Floating-point operations to train on one token."""


class Throughput(Callback):
    """Logs tokens and sequences per second, step time, waiting for data, memory and utilization.

    Figures cover the last steps up to `window_steps`; the first step of a run and everything outside steps
    (validation, checkpoints) are left out. `train/tokens` counts all tokens since the beginning of training.
    """

    clock: Callable[[], float] = staticmethod(time.perf_counter)

    def __init__(self, window_steps: int = 50, peak_tflops: float | None = None) -> None:
        """Sets what is measured.

        Args:
            window_steps: optimizer steps that the figures cover.
            peak_tflops: dense peak of one device; left out, the known one of the device, else utilization is left out.
        """
        if window_steps < 1:
            raise ValueError(f"Throughput.window_steps is {window_steps}; it must be 1 or more")
        self.peak_tflops = peak_tflops
        self._steps: deque[tuple[float, float, int, int]] = deque(maxlen=window_steps)
        self._tokens = 0
        self._reset_step()

    def _reset_step(self) -> None:
        self._busy = self._waited = 0.0
        self._sequences = self._step_tokens = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks up the peak, and says so if there is none."""
        if not isinstance(pl_module, Countable):
            raise TypeError(f"Throughput needs {type(pl_module).__name__} to have count() and flops_per_token()")
        device = pl_module.device
        if self.peak_tflops is None and device.type == "cuda":
            name = torch.cuda.get_device_name(device)
            self.peak_tflops = peak_tflops(name, str(trainer.precision))
            if self.peak_tflops is None and trainer.is_global_zero:
                print(f"MFU off: the peak of {name} is not known; give Throughput peak_tflops")
        self._steps.clear()
        self._reset_step()
        self._first = True
        self._ended: float | None = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Waiting begins with the epoch's first batch."""
        self._ended = self.clock()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Ends the wait."""
        self._began = self.clock()
        if self._ended is not None:
            self._waited += self._began - self._ended

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts a pass, and after the last of a step logs."""
        sequences, tokens = pl_module.count(batch)  # type: ignore[operator]
        self._sequences += sequences
        self._step_tokens += tokens
        stepped = not trainer.fit_loop._should_accumulate()
        if stepped and pl_module.device.type == "cuda" and self._due(trainer):
            torch.cuda.synchronize(pl_module.device)
        now = self.clock()
        self._busy += now - self._began
        if stepped:
            self._tokens += self._step_tokens * trainer.world_size
            if not self._first:
                self._steps.append((self._busy + self._waited, self._waited, self._sequences, self._step_tokens))
            self._first = False
            self._reset_step()
            if self._due(trainer):
                pl_module.log_dict(self.figures(trainer, pl_module), batch_size=1)
        self._ended = self.clock()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Time spent validating is no wait."""
        self._ended = self.clock()

    @staticmethod
    def _due(trainer: Trainer) -> bool:
        return trainer._logger_connector.should_update_logs

    def figures(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        """What is logged."""
        figures = {"train/tokens": float(self._tokens)}
        if not self._steps:
            return figures
        seconds, waited, sequences, tokens = (sum(column) for column in zip(*self._steps, strict=True))
        per_device = tokens / seconds
        figures |= {
            "throughput/tokens_per_s": per_device * trainer.world_size,
            "throughput/tokens_per_s_per_device": per_device,
            "throughput/sequences_per_s": sequences / seconds * trainer.world_size,
            "throughput/step_time_ms": 1000 * seconds / len(self._steps),
            "throughput/data_wait_ms": 1000 * waited / len(self._steps),
            "throughput/peak_memory_gib": _peak_memory_gib(pl_module.device),
        }
        if self.peak_tflops is not None:
            flops = pl_module.flops_per_token()  # type: ignore[operator]
            figures["throughput/mfu"] = per_device * flops / (self.peak_tflops * 1e12)
        return figures

    def state_dict(self) -> dict[str, Any]:
        """The tokens trained on."""
        return {"tokens": self._tokens}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on counting."""
        self._tokens = state_dict["tokens"]


def _peak_memory_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
