"""How fast training goes, and whether it waits for data."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lmrecipes.callbacks.peak_flops import peak_tflops


@runtime_checkable
class CountsTokens(Protocol):
    """A module whose tokens and sequences per second can be told."""

    def count(self, batch: Any) -> tuple[int, int]:
        """Sequences of a batch of this rank, and its tokens that carry a target."""


@runtime_checkable
class CountsFlops(Protocol):
    """A module whose utilization can be told."""

    def flops_per_token(self) -> float:
        """Floating-point operations to train on one token, forward and backward."""


class _Stretch(NamedTuple):
    """Steps between two logged ones, over all ranks."""

    steps: int
    seconds: float
    waited: float
    sequences: int
    tokens: int


class Throughput(Callback):
    """Logs tokens and sequences per second, step time, waiting for data, memory and utilization.

    Figures come with every logged step and are rates over whole stretches of steps: what was done, over the time that it
    took on the slowest rank. The first step of a run, validation and the writing of checkpoints are left out.
    `throughput/data_wait_ms` is the part of a step in which the loop waits for the loader. `train/tokens` counts all tokens
    since training began and goes on after a resume.
    """

    clock: Callable[[], float] = staticmethod(time.perf_counter)

    def __init__(self, window_steps: int = 50, peak_tflops: float | None = None) -> None:
        """Sets what is measured.

        Args:
            window_steps: optimizer steps that the figures cover; at least those since the step logged before.
            peak_tflops: dense peak of one device; left out, the known one of the device, else utilization is left out.
        """
        if window_steps < 1:
            raise ValueError(f"Throughput.window_steps is {window_steps}; it must be 1 or more")
        if peak_tflops is not None and not peak_tflops > 0:
            raise ValueError(f"Throughput.peak_tflops is {peak_tflops}; it must be above 0, such as 989 for an H200")
        self.window_steps = window_steps
        self.peak_tflops = peak_tflops
        self._peak: float | None = None
        self._stretches: deque[_Stretch] = deque()
        self._tokens_seen = 0
        self._unsettled_tokens = 0
        self._module: LightningModule | None = None
        self._observed: Any = None
        self._global_step = 0
        self._forget()

    def _forget(self) -> None:
        self._stretches.clear()
        self._since: float | None = None
        self._fetching: float | None = None
        self._warm = False
        self._begin_stretch()

    @property
    def tokens_seen(self) -> int:
        """Tokens trained on since training began, over all ranks, up to the last logged or saved step."""
        return self._tokens_seen

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks up the peak, says so if there is none, and begins to listen."""
        self._module = pl_module
        self._peak = self.peak_tflops
        if self._peak is None and pl_module.device.type == "cuda" and isinstance(pl_module, CountsFlops):
            name = torch.cuda.get_device_name(pl_module.device)
            self._peak = peak_tflops(name, str(trainer.precision))
            if self._peak is None:
                rank_zero_warn(f"MFU off: unknown device {name} at {trainer.precision}; set peak_tflops")
        self._forget()
        self._global_step = trainer.global_step
        self._listen(trainer.profiler)

    def _begin_stretch(self) -> None:
        self._steps = self._sequences = self._tokens = 0
        self._seconds = self._waited = 0.0

    def _listen(self, profiler: Any) -> None:
        """Hears when a batch is fetched and a checkpoint written: the trainer tells its profiler, and no hook says it."""
        start, stop = profiler.start, profiler.stop

        def heard_start(action: str) -> None:
            if action.endswith("train_dataloader_next"):
                self._resume()
                self._fetching = self.clock()
            elif action == "save_checkpoint":
                self._pause()
            start(action)

        def heard_stop(action: str) -> None:
            stop(action)
            if action.endswith("train_dataloader_next") and self._fetching is not None:
                self._waited += self.clock() - self._fetching
                self._fetching = None

        profiler.start, profiler.stop = heard_start, heard_stop
        self._observed = profiler

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stops listening."""
        if self._observed is not None:
            del self._observed.start, self._observed.stop
            self._observed = self._module = None

    def _synchronize(self) -> None:
        if self._module is not None and self._module.device.type == "cuda":
            torch.cuda.synchronize(self._module.device)

    def _pause(self) -> None:
        """Stops counting time until the next batch is fetched."""
        if self._since is not None:
            self._synchronize()
            self._seconds += self.clock() - self._since
            self._since = None

    def _resume(self) -> None:
        if self._since is None and self._warm:
            self._since = self.clock()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Counts time from here if the batch was fetched ahead."""
        self._resume()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves validation out, and what follows it until the next batch."""
        self._pause()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts a pass, and logs when it ended a step that is logged."""
        sequences, tokens = pl_module.count(batch) if isinstance(pl_module, CountsTokens) else (0, 0)
        self._unsettled_tokens += tokens
        self._sequences += sequences
        self._tokens += tokens
        if trainer.global_step == self._global_step:
            return
        self._global_step = trainer.global_step
        self._steps += 1
        if not self._warm:
            self._synchronize()
            self._warm = True
            self._begin_stretch()
            self._since = self.clock()
        if trainer.log_every_n_steps and trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._end_stretch()
            pl_module.log_dict(self._figures(pl_module), batch_size=1)

    def _end_stretch(self) -> None:
        """Sums up over ranks what was done since the step logged before."""
        running = self._since is not None
        self._pause()
        if running:
            self._since = self.clock()
        mine = torch.tensor([self._seconds, self._waited, self._sequences, self._tokens], dtype=torch.float64)
        each = self._gather(mine)
        self._settle_tokens()
        if self._steps:
            seconds, waited = each[:, :2].amax(0).tolist()
            sequences, tokens = each[:, 2:].sum(0).tolist()
            self._stretches.append(_Stretch(self._steps, seconds, waited, int(sequences), int(tokens)))
            while len(self._stretches) > 1 and sum(s.steps for s in self._stretches) > self.window_steps:
                self._stretches.popleft()
        self._begin_stretch()

    def _gather(self, values: torch.Tensor) -> torch.Tensor:
        """The values of every rank, one row each."""
        assert self._module is not None
        if self._module.trainer.world_size == 1:
            return values[None]
        gathered = self._module.all_gather(values.to(self._module.device))
        assert isinstance(gathered, torch.Tensor)
        return gathered.cpu()

    def _settle_tokens(self) -> None:
        self._tokens_seen += int(self._gather(torch.tensor([self._unsettled_tokens], dtype=torch.float64)).sum())
        self._unsettled_tokens = 0

    def _figures(self, pl_module: LightningModule) -> dict[str, torch.Tensor | float]:
        figures: dict[str, torch.Tensor | float] = {"throughput/peak_memory_gib": _peak_memory_gib(pl_module.device)}
        counted = isinstance(pl_module, CountsTokens)
        if counted:
            # fp32 would round a count above 16.8 million.
            exact = torch.float32 if pl_module.device.type == "mps" else torch.float64
            figures["train/tokens"] = torch.tensor(self._tokens_seen, dtype=exact, device=pl_module.device)
        if not self._stretches:
            return figures
        steps, seconds, waited, sequences, tokens = (sum(column) for column in zip(*self._stretches, strict=True))
        figures["throughput/step_time_ms"] = 1000 * seconds / steps
        figures["throughput/data_wait_ms"] = 1000 * waited / steps
        if counted:
            per_device = tokens / seconds / pl_module.trainer.world_size
            figures["throughput/tokens_per_s"] = tokens / seconds
            figures["throughput/tokens_per_s_per_device"] = per_device
            figures["throughput/sequences_per_s"] = sequences / seconds
            if self._peak is not None and isinstance(pl_module, CountsFlops):
                figures["throughput/mfu"] = per_device * pl_module.flops_per_token() / (self._peak * 1e12)
        return figures

    def state_dict(self) -> dict[str, Any]:
        """The tokens trained on."""
        if self._module is not None:
            self._settle_tokens()
        return {"tokens": self._tokens_seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on counting."""
        self._tokens_seen = int(state_dict["tokens"])


def _peak_memory_gib(device: torch.device) -> float:
    """Of this rank: the allocator's on a GPU, the whole process's on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
