"""Logs throughput, step time, data waiting time, memory and MFU."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lmrecipes.config.validation import count
from lmrecipes.models.common.protocols import Countable
from lmrecipes.runtime.peak_flops import peak_tflops
from lmrecipes.trainer_state import completes_step, data_rank, logs_step, sum_over_ranks


class Throughput(Callback):
    """Logs tokens and sequences per second, step time, data waiting time, peak memory and MFU.

    Metrics cover up to the last `window_steps` steps; the first step of a run and everything outside steps
    (validation, checkpoints, logging) are excluded. `train/tokens` counts the tokens of all ranks since the start
    of training, exactly.
    """

    clock: Callable[[], float] = staticmethod(time.perf_counter)

    def __init__(self, window_steps: int = 50, peak_tflops: float | None = None) -> None:
        """Sets the measuring window.

        Args:
            window_steps: optimizer steps that the metrics cover.
            peak_tflops: dense peak of one device; default: the device's, if known. Without it MFU is not logged.
        """
        count("Throughput.window_steps", window_steps)
        if peak_tflops is not None and not peak_tflops > 0:
            raise ValueError(f"Throughput.peak_tflops is {peak_tflops}; it must be above 0, or left out")
        self.peak_tflops = peak_tflops
        self._steps: deque[tuple[float, float, int, int]] = deque(maxlen=window_steps)
        # Tokens of all ranks up to the last reduction, and of this rank since.
        self._tokens = self._own_tokens = 0
        self._reset_step()

    def _reset_step(self) -> None:
        self._busy = self._waited = 0.0
        self._sequences = self._step_tokens = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Checks that the model counts its tokens.

        Raises:
            ValueError: if it does not.
        """
        if stage == "fit" and not isinstance(pl_module, Countable):
            raise ValueError(
                f"Throughput needs a model with count() and flops_per_token(), which {type(pl_module).__name__} lacks; "
                f"add them, or leave Throughput out of trainer.callbacks"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks up the peak, and reports if it is unknown."""
        device = pl_module.device
        if self.peak_tflops is None and device.type == "cuda":
            name = torch.cuda.get_device_name(device)
            self.peak_tflops = peak_tflops(name, str(trainer.precision), torch.get_float32_matmul_precision())
            if self.peak_tflops is None and trainer.is_global_zero:
                print(f"MFU disabled: unknown peak FLOPS of {name} in {trainer.precision}; set Throughput.peak_tflops")
        self._steps.clear()
        self._reset_step()
        self._first = True
        self._began = self.clock()
        if isinstance(trainer, Trainer):
            # Data waiting time is only visible to Lightning's profiler, not to callbacks.
            loop: Any = trainer.fit_loop.epoch_loop
            loop._on_before_fetch, loop._on_after_fetch = self.on_before_fetch, self.on_after_fetch

    def on_before_fetch(self) -> None:
        """Starts the data waiting time."""
        self._asked = self.clock()

    def on_after_fetch(self) -> None:
        """Stops the data waiting time."""
        self._began = self.clock()
        self._waited += self._began - self._asked

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, _: Any, batch: Any, *__: Any) -> None:
        """Counts a micro-batch, and logs after the last one of a step."""
        sequences, tokens = pl_module.count(batch)  # type: ignore[operator]
        self._sequences += sequences
        self._step_tokens += tokens
        stepped = completes_step(trainer)
        if stepped and pl_module.device.type == "cuda" and logs_step(trainer):
            torch.cuda.synchronize(pl_module.device)
        now = self.clock()
        self._busy += now - self._began
        if stepped:
            self._own_tokens += self._step_tokens
            if not self._first:
                self._steps.append((self._busy + self._waited, self._waited, self._sequences, self._step_tokens))
            self._first = False
            self._reset_step()
            if logs_step(trainer):
                pl_module.log_dict(self.window_metrics(trainer, pl_module), batch_size=1)

    def _agree(self, trainer: Trainer, *counts: int) -> list[int]:
        """Reduces token and other counts over all ranks; returns the sums."""
        local = torch.tensor([self._own_tokens, *counts], device=trainer.strategy.root_device)
        # Ranks of a tensor-parallel group read the same tokens.
        copies = trainer.world_size // data_rank(trainer).size
        new, *sums = (count // copies for count in sum_over_ranks(trainer, local).tolist())
        self._tokens += new
        self._own_tokens = 0
        return sums

    def window_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """The metrics."""
        seconds, waited, *counts = (sum(column) for column in zip((0.0, 0.0, 0, 0), *self._steps, strict=True))
        sequences, tokens = self._agree(trainer, *(int(count) for count in counts))
        # float32 is exact up to 2^24 only; MPS has no float64.
        exact = torch.float32 if pl_module.device.type == "mps" else torch.float64
        metrics: dict[str, Any] = {"train/tokens": torch.tensor(self._tokens, dtype=exact)}
        if not self._steps:
            return metrics
        per_device = tokens / seconds / trainer.world_size
        metrics |= {
            "throughput/tokens_per_s": tokens / seconds,
            "throughput/tokens_per_s_per_device": per_device,
            "throughput/sequences_per_s": sequences / seconds,
            "throughput/step_time_ms": 1000 * seconds / len(self._steps),
            "throughput/data_wait_ms": 1000 * waited / len(self._steps),
            "throughput/peak_memory_gib": _peak_memory_gib(pl_module.device),
        }
        if self.peak_tflops is not None:
            flops = pl_module.flops_per_token()  # type: ignore[operator]
            metrics["throughput/mfu"] = per_device * flops / (self.peak_tflops * 1e12)
        return metrics

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds the tokens trained on, of all ranks."""
        self._agree(trainer)
        checkpoint.setdefault("callbacks", {})[self.state_key] = {"tokens": self._tokens}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the token count."""
        self._tokens = state_dict["tokens"]


def _peak_memory_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
