"""Checks of the Trainer's own flags, some of which Lightning would misread or fail on later."""

from __future__ import annotations

from typing import Any

from lmrecipes.config.errors import ConfigError


def check_flags(trainer: Any) -> None:
    """Refuses values of the `trainer:` group that cannot work.

    Args:
        trainer: the group, parsed.

    Raises:
        ConfigError: naming the flag and what would work.
    """
    if trainer.max_steps == 0:
        raise ConfigError("trainer.max_steps is 0; it must be 1 or more")
    if (trainer.log_every_n_steps or 0) < 0:
        raise ConfigError(f"trainer.log_every_n_steps is {trainer.log_every_n_steps}; it must be 0 (never) or more")
    limit = trainer.limit_train_batches
    if limit is not None and (limit != 1 or isinstance(limit, int)):
        raise ConfigError(
            f"trainer.limit_train_batches is {limit}; training is counted in steps: "
            f"set trainer.max_steps, or trainer.overfit_batches to repeat the first batches"
        )
    interval = trainer.val_check_interval
    if isinstance(interval, int | float) and interval <= 0:
        raise ConfigError(
            f"trainer.val_check_interval is {interval}; it must be above 0 "
            f"(trainer.limit_val_batches 0 turns validation off)"
        )
    overfit = trainer.overfit_batches
    if overfit < 0 or overfit != int(overfit):
        raise ConfigError(f"trainer.overfit_batches is {overfit}; it must be a number of batches")
