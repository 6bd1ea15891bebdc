"""Stops or skips steps with a non-finite loss or gradient, or a loss spike, before they reach the weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from lmrecipes.config.validation import count
from lmrecipes.runtime.dtensor import is_split
from lmrecipes.trainer_state import completes_step

_REASONS = ("", "the loss is {loss:g}", "a gradient is not finite (loss {loss:g})", "the loss jumped to {loss:g}")
_LOSS, _GRADIENT, _SPIKE = 1.0, 2.0, 3.0


class StoppedByLossGuard(SystemExit):
    """Training stopped at a bad step, whose state was not saved. The exit code is 3."""

    def __init__(self, step: int, reason: str) -> None:
        """Stores the step and the reason.

        Args:
            step: the bad optimizer step, counted from 1.
            reason: what was wrong with it.
        """
        super().__init__(3)
        self.step, self.reason = step, reason

    def __str__(self) -> str:
        return f"stopped by LossGuard at step {self.step}: {self.reason}"


class LossGuard(Callback):
    """Checks every optimizer step before it is applied, over all micro-batches and ranks.

    A step is bad if its loss or a gradient of it is not finite, or (with `spike_sigma`) if its loss is above mean +
    spike_sigma x standard deviation of the last `spike_window_steps` good losses; the deviation is at least 1 %
    of the mean, and no spike is detected before the window is full. Under 16-mixed the gradients are left to the
    GradScaler, which skips steps as it searches for a scale.

    `stop` ends the run; `skip` leaves weights and optimizer unchanged (data and schedule advance), logs their number
    as `train/skipped_steps`, and ends the run after `max_skips_in_a_row`. No checkpoint is written after a bad step
    under `stop`, nor, under `skip`, directly after a non-finite loss.

    The verdict stays on the device. It is read every `look_every_n_steps` steps, and before every checkpoint and
    validation; on every step on a CPU, and if the optimizer cannot skip on the device (fused ones can).
    """

    def __init__(
        self,
        action: Literal["stop", "skip"] = "stop",
        max_skips_in_a_row: int = 10,
        spike_sigma: float | None = None,
        spike_window_steps: int = 100,
        look_every_n_steps: int = 10,
    ) -> None:
        """Sets the rule.

        Args:
            action: what to do at a bad step.
            max_skips_in_a_row: bad steps in a row after which `skip` stops.
            spike_sigma: standard deviations above the mean that make a loss a spike; default: no detection.
            spike_window_steps: good steps over which mean and deviation are computed.
            look_every_n_steps: optimizer steps between reads of the verdict, each of which synchronizes a GPU.
        """
        counts = {
            "max_skips_in_a_row": (max_skips_in_a_row, 1),
            "spike_window_steps": (spike_window_steps, 2),
            "look_every_n_steps": (look_every_n_steps, 1),
        }
        for name, (value, least) in counts.items():
            count(f"LossGuard.{name}", value, least)
        if spike_sigma is not None and not spike_sigma > 0:
            raise ValueError(f"LossGuard.spike_sigma is {spike_sigma}; it must be above 0, or left out")
        self.action = action
        self.max_skips_in_a_row = max_skips_in_a_row
        self.spike_sigma = spike_sigma
        self.look_every_n_steps = look_every_n_steps
        self._loss: Tensor | None = None
        # Mean loss of the last step, over all micro-batches and ranks.
        self._mean = torch.zeros(())
        # The latest bad step under `skip`, the first under `stop`: number, reason, loss; then the count of bad steps,
        # of consecutive ones, and the reason of the previous step.
        self._record = torch.zeros(6, dtype=torch.float64)
        self._window = torch.zeros(spike_window_steps, dtype=torch.float64)
        self._good = torch.zeros((), dtype=torch.int64)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Moves the state to the device."""
        if self.action == "skip" and "DeepSpeed" in type(trainer.strategy).__name__:
            raise ValueError("LossGuard.action is skip, but DeepSpeed makes its steps by itself; stop works")
        device = pl_module.device
        # MPS has no float64.
        self._exact = torch.float32 if device.type == "mps" else torch.float64
        self._record = self._record.to(device, self._exact)
        self._window = self._window.to(device, self._exact)
        self._good = self._good.to(device)
        self._loss = None

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Adds the loss of a micro-batch, which is divided by the accumulation, and scaled under 16-mixed."""
        loss = loss.detach()
        self._loss = loss if self._loss is None else self._loss + loss

    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Checks the step.

        Raises:
            StoppedByLossGuard: in all ranks.
        """
        scaler = getattr(getattr(trainer, "precision_plugin", None), "scaler", None)
        metrics = self._own(pl_module.device, optimizer, scaler)
        if dist.is_initialized() and trainer.world_size > 1:
            dist.all_reduce(metrics)
        self._mean = metrics[0] / trainer.world_size
        on_cpu = pl_module.device.type == "cpu"
        if on_cpu and self.action == "stop" and self.spike_sigma is None and metrics[0].isfinite() and metrics[1] == 0:
            # No gradient: nothing to check.
            return
        bad = self._judge(self._mean, metrics[1] > 0, trainer.global_step + 1)
        if self.action == "skip":
            self._skip(optimizer, bad, on_device=scaler is None)
        if on_cpu or (trainer.global_step + 1) % self.look_every_n_steps == 0:
            self.look()

    def _own(self, device: torch.device, optimizer: Optimizer, scaler: Any) -> Tensor:
        """Loss and number of non-finite gradients of this rank."""
        loss = torch.zeros((), device=device) if self._loss is None else self._loss
        self._loss = None
        wrong = torch.zeros((), device=device, dtype=self._exact)
        if scaler is not None and scaler.is_enabled():
            loss = loss / scaler.scale(torch.ones((), device=device))
        elif gradients := list(_gradients(optimizer)):
            # Finite only if all elements are; a sum is cheaper on CPU, a norm launches fewer GPU kernels.
            sums = [gradient.sum() for gradient in gradients] if device.type == "cpu" else []
            all_of_it = torch.stack(sums).sum() if sums else torch.nn.utils.get_total_norm(gradients)
            wrong = (~torch.isfinite(all_of_it)).to(device, self._exact)
        return torch.stack([loss.to(self._exact).reshape(()), wrong])

    def _judge(self, loss: Tensor, wrong_gradient: Tensor, step: int) -> Tensor:
        """Whether the step is bad, which is recorded."""
        nothing = torch.zeros_like(loss)
        reason = torch.where(wrong_gradient, _GRADIENT, nothing)
        if self.spike_sigma is not None:
            size = self._window.numel()
            mean, deviation = self._window.mean(), self._window.std()
            limit = mean + self.spike_sigma * torch.maximum(deviation, 0.01 * mean.abs())
            reason = torch.where((self._good >= size) & (loss > limit) & (reason == 0), _SPIKE, reason)
        reason = torch.where(torch.isfinite(loss), reason, _LOSS)
        bad = reason > 0
        number, in_a_row = self._record[3] + bad, torch.where(bad, self._record[4] + 1, nothing)
        renew = bad if self.action == "skip" else bad & (self._record[3] == 0)
        latest = torch.stack([torch.full_like(loss, step), reason, loss])
        self._record = torch.cat(
            [torch.where(renew, latest, self._record[:3]), torch.stack([number, in_a_row, reason])]
        )
        if self.spike_sigma is not None:
            places = torch.arange(self._window.numel(), device=loss.device)
            here = (places == self._good % places.numel()) & ~bad
            self._window = torch.where(here, loss, self._window)
            self._good = self._good + ~bad
        return bad

    @staticmethod
    def _skip(optimizer: Any, bad: Tensor, on_device: bool) -> None:
        split = any(is_split(p) for group in optimizer.param_groups for p in group["params"])
        if on_device and not split and getattr(optimizer, "_step_supports_amp_scaling", False):
            # `found_inf` makes fused optimizers skip the step, as with a GradScaler.
            optimizer.found_inf = bad.to(torch.float32)
        elif bad.item():
            optimizer.zero_grad(set_to_none=True)

    def look(self) -> None:
        """Reads the verdict on the steps so far, which synchronizes the device.

        Raises:
            StoppedByLossGuard: if training is to stop.
        """
        step, reason, loss, number, in_a_row, _ = self._record.tolist()
        what = _REASONS[int(reason)].format(loss=loss)
        if self.action == "stop" and number:
            raise StoppedByLossGuard(int(step), what)
        if self.action == "skip" and in_a_row >= self.max_skips_in_a_row:
            raise StoppedByLossGuard(int(step), f"{what}, after {in_a_row:.0f} bad steps in a row")

    def is_finite(self) -> bool:
        """Whether the state is safe to save: memory kept between steps may be non-finite too.

        Raises:
            StoppedByLossGuard: if training is to stop.
        """
        self.look()
        return bool(self._record[5] != _LOSS)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
        """Logs the number of skipped steps.

        Raises:
            StoppedByLossGuard: if DeepSpeed, which hides gradients, skipped the step for a non-finite one.
        """
        if completes_step(trainer) and getattr(trainer.strategy, "left_step_out", False):
            self.look()
            raise StoppedByLossGuard(trainer.global_step, _REASONS[int(_GRADIENT)].format(loss=self._mean.item()))
        if self.action == "skip" and completes_step(trainer):
            pl_module.log("train/skipped_steps", self._record[3].float(), batch_size=1)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reads the verdict before time is spent on a validation."""
        if trainer.state.fn == "fit":
            self.look()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reads the verdict on the last steps."""
        self.look()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Reads the verdict before anything is written."""
        self.look()

    def state_dict(self) -> dict[str, Any]:
        """The window of losses and the counts."""
        return {"record": self._record.tolist(), "window": self._window.tolist(), "good": int(self._good)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the window, unless its length was changed."""
        self._record = torch.tensor(state_dict["record"], dtype=torch.float64)
        if len(state_dict["window"]) == self._window.numel():
            self._window = torch.tensor(state_dict["window"], dtype=torch.float64)
            self._good = torch.tensor(state_dict["good"])


def is_finite(callbacks: Iterable[Callback]) -> bool:
    """Whether every LossGuard finds the state safe to save.

    Raises:
        StoppedByLossGuard: if training is to stop.
    """
    return all(callback.is_finite() for callback in callbacks if isinstance(callback, LossGuard))


def _gradients(optimizer: Optimizer) -> Iterator[Tensor]:
    """Gradients, or this rank's shards of them, in dtypes that cannot overflow in their norm."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if (gradient := parameter.grad) is not None:
                local = gradient.to_local() if is_split(gradient) else gradient
                yield local.float() if local.dtype == torch.float16 else local
