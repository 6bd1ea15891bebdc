"""Learning-rate schedules as pure functions of the optimizer step, and the scheduler that applies one."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Literal

from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lmrecipes.config.validation import at_least, is_probability


class Schedule(ABC):
    """The learning rate of each optimizer step."""

    @abstractmethod
    def lr(self, step: int, base_lr: float, max_steps: int) -> float:
        """Learning rate of update number `step`, counted from 0, of a training of max_steps updates."""

    def fitted(self, max_steps: int) -> Schedule:
        """The schedule for a training of max_steps updates, whose warm-up may be longer than that."""
        return self


class _Decaying(Schedule):
    """A schedule whose decay begins after the warm-up, which a short trial has no time for."""

    warmup_steps: int

    def fitted(self, max_steps: int) -> Schedule:
        """Shortens a warm-up of `warmup_steps` to half of a training that is not longer; warns of it."""
        if not 0 < max_steps <= self.warmup_steps:
            return self
        steps = max_steps // 2
        rank_zero_warn(
            f"model.schedule.warmup_steps is {self.warmup_steps}, but trainer.max_steps is {max_steps}: "
            f"{'no warm-up' if not steps else f'warming up for {steps} step' + ('' if steps == 1 else 's')}",
            stacklevel=2,
        )
        shortened: Schedule = replace(self, warmup_steps=steps)  # type: ignore[type-var]
        return shortened


def _warm(step: int, base_lr: float, warmup_steps: int) -> float:
    # The first update has a rate above 0. (NVIDIA's script makes its very first update at the full rate.)
    return base_lr * (step + 1) / warmup_steps


def _end(name: str, warmup_steps: int, max_steps: int) -> int:
    if max_steps <= 0:
        raise ValueError(f"schedule {name} needs the number of steps: set trainer.max_steps")
    if warmup_steps >= max_steps:
        raise ValueError(
            f"the schedule's warm-up takes {warmup_steps} steps, but trainer.max_steps is {max_steps}; set "
            f"model.schedule.warmup_steps to {max_steps - 1} or less, or raise trainer.max_steps"
        )
    return max_steps - warmup_steps


@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """The same rate after the warm-up."""

    warmup_steps: int = 0
    """Updates during which the rate rises linearly."""

    def __post_init__(self) -> None:
        """Validate the configuration.

        Raises:
            ValueError: naming the field.
        """
        at_least(self, "model.schedule.", warmup_steps=0)

    def lr(self, step: int, base_lr: float, max_steps: int) -> float:
        """See Schedule."""
        return _warm(step, base_lr, self.warmup_steps) if step < self.warmup_steps else base_lr


@dataclass(frozen=True, kw_only=True)
class Cosine(_Decaying):
    """Half a cosine from the full rate to min_lr after the warm-up."""

    warmup_steps: int = 0
    """Updates during which the rate rises linearly."""
    min_lr: float = 0.0
    """Rate at the end."""
    max_steps: int | None = None
    """Updates until min_lr is reached; left out, all of trainer.max_steps."""

    def __post_init__(self) -> None:
        """Validate the configuration.

        Raises:
            ValueError: naming the field.
        """
        at_least(self, "model.schedule.", warmup_steps=0, min_lr=0, max_steps=1)

    def fitted(self, max_steps: int) -> Schedule:
        """See Schedule."""
        return super().fitted(max_steps) if self.max_steps is None else self

    def lr(self, step: int, base_lr: float, max_steps: int) -> float:
        """See Schedule."""
        length = _end("Cosine", self.warmup_steps, self.max_steps or max_steps)
        if step < self.warmup_steps:
            return _warm(step, base_lr, self.warmup_steps)
        done = min((step - self.warmup_steps) / length, 1.0)
        return self.min_lr + (base_lr - self.min_lr) * (1 + math.cos(math.pi * done)) / 2


@dataclass(frozen=True, kw_only=True)
class Linear(_Decaying):
    """Linear decay from the full rate to min_lr after the warm-up."""

    warmup_steps: int = 0
    """Updates during which the rate rises linearly."""
    min_lr: float = 0.0
    """Rate at the end."""

    def __post_init__(self) -> None:
        """Validate the configuration.

        Raises:
            ValueError: naming the field.
        """
        at_least(self, "model.schedule.", warmup_steps=0, min_lr=0)

    def lr(self, step: int, base_lr: float, max_steps: int) -> float:
        """See Schedule."""
        length = _end("Linear", self.warmup_steps, max_steps)
        if step < self.warmup_steps:
            return _warm(step, base_lr, self.warmup_steps)
        return base_lr + (self.min_lr - base_lr) * min((step - self.warmup_steps) / length, 1.0)


@dataclass(frozen=True, kw_only=True)
class WarmupAnnealing(Schedule):
    """NeMo's: linear warm-up over a share of all updates, never from 0, then linear decay to min_lr."""

    warmup_share: float = 0.01
    """Share of all updates during which the rate rises."""
    min_lr: float = 0.0
    """Rate at the end."""

    def __post_init__(self) -> None:
        """Validate the configuration.

        Raises:
            ValueError: naming the field.
        """
        is_probability(self, "model.schedule.", "warmup_share")
        at_least(self, "model.schedule.", min_lr=0)

    def lr(self, step: int, base_lr: float, max_steps: int) -> float:
        """See Schedule."""
        warmup = int(self.warmup_share * max_steps)
        length = _end("WarmupAnnealing", warmup, max_steps)
        if step < warmup:
            return base_lr * (step + 1) / (warmup + 1)
        return base_lr + (self.min_lr - base_lr) * min((step - warmup) / length, 1.0)


@dataclass(frozen=True, kw_only=True)
class Polynomial(_Decaying):
    """Polynomial decay, as in ELECTRA's two published schedules."""

    warmup_steps: int = 0
    """Updates during which the rate rises linearly."""
    warmup_share: float = 0.0
    """The same as a share of all updates, in place of a number."""
    power: float = 1.0
    """1 is a straight line, 0.5 falls late."""
    falls: Literal["after_warmup", "from_start"] = "after_warmup"
    """after_warmup: from the full rate (NVIDIA); from_start: over all updates, also while it is warmed up (Google)."""
    min_lr: float = 0.0
    """Rate at the end."""

    def __post_init__(self) -> None:
        """Validate the configuration.

        Raises:
            ValueError: naming the field.
        """
        if self.warmup_steps and self.warmup_share:
            raise ValueError(
                f"model.schedule has warmup_steps {self.warmup_steps} and warmup_share {self.warmup_share}; set one of "
                f"them to 0"
            )
        is_probability(self, "model.schedule.", "warmup_share")
        at_least(self, "model.schedule.", warmup_steps=0, min_lr=0)
        if self.power <= 0:
            raise ValueError(f"model.schedule.power is {self.power}; it must be above 0")

    def lr(self, step: int, base_lr: float, max_steps: int) -> float:
        """See Schedule."""
        warmup = self.warmup_steps or round(self.warmup_share * max_steps)
        length = _end("Polynomial", warmup, max_steps)
        before = warmup
        if self.falls == "from_start":
            length, before = max_steps, 0
        left = 1 - min(max((step - before) / length, 0.0), 1.0)
        rate = self.min_lr + (base_lr - self.min_lr) * left**self.power
        return _warm(step, rate, warmup) if step < warmup else rate


@dataclass(frozen=True, kw_only=True)
class InverseSquareRoot(Schedule):
    """Inverse square root decay after the warm-up, at whose end the rate peaks."""

    warmup_steps: int = 1
    """Updates during which the rate rises linearly; at least 1."""
    rises: bool = True
    """Whether it rises; if not, it is at its highest from the first update on, as T5's and mT5's."""

    def __post_init__(self) -> None:
        """Validate the configuration.

        Raises:
            ValueError: naming the field.
        """
        at_least(self, "model.schedule.", warmup_steps=0)

    def lr(self, step: int, base_lr: float, max_steps: int) -> float:
        """See Schedule."""
        if step < self.warmup_steps:
            return _warm(step, base_lr, self.warmup_steps) if self.rises else base_lr
        return base_lr * math.sqrt(max(self.warmup_steps, 1) / (step + 1))


class StepSchedule(LRScheduler):
    """Sets the rate of every parameter group before each update.

    Its state is only the step, so a checkpoint never overrides the user's base rate.
    """

    def __init__(self, optimizer: Optimizer, schedule: Schedule, *, max_steps: int) -> None:
        self.schedule = schedule.fitted(max_steps)
        self.max_steps = max_steps
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """Rates of the parameter groups for the next update."""
        return [self.schedule.lr(self.last_epoch, float(base), self.max_steps) for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """The number of updates."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the number of updates."""
        self.last_epoch = state_dict["last_epoch"]
