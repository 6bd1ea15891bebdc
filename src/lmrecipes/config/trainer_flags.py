"""Checks of the Trainer's own flags, some of which Lightning would misread or fail on later."""

from __future__ import annotations

import re
from typing import Any

from lmrecipes.config.errors import ConfigError

# Seeds that NumPy takes.
_SEEDS = 2**32
_MOST_PROCESSES = 2**16
_DURATION = re.compile(r"\d+:\d\d:\d\d:\d\d")
_UNITS = ("weeks", "days", "hours", "minutes", "seconds")
# Flags that count something, and the least that each takes; -1 epochs or steps are without end.
_LEAST = {
    "log_every_n_steps": (0, "0 (never) or more"),
    "max_epochs": (-1, "1 or more, or -1 for no limit"),
    "min_epochs": (0, "0 or more"),
    "max_steps": (-1, "1 or more, or -1 for no limit"),
    "min_steps": (0, "0 or more"),
    "num_nodes": (1, "1 or more"),
    "num_sanity_val_steps": (-1, "0 or more, or -1 for all"),
    "check_val_every_n_epoch": (1, "1 or more"),
    "accumulate_grad_batches": (1, "1 or more"),
    "gradient_clip_val": (0, "0 (no clipping) or more"),
    "reload_dataloaders_every_n_epochs": (0, "0 or more"),
    "fast_dev_run": (0, "a number of steps, true or false"),
    "limit_val_batches": (0, "0 (none) or more"),
    "limit_test_batches": (0, "0 (none) or more"),
    "limit_predict_batches": (0, "0 (none) or more"),
}


def check_flags(trainer: Any) -> None:
    """Refuses values of the `trainer:` group that cannot work.

    Args:
        trainer: the group, parsed.

    Raises:
        ConfigError: naming the flag and what would work.
    """
    for flag in ("max_steps", "max_epochs"):
        if trainer[flag] == 0:
            raise ConfigError(f"trainer.{flag} is 0; it must be 1 or more")
    for flag, (least, works) in _LEAST.items():
        value = trainer[flag]
        if isinstance(value, int | float) and value < least:
            raise ConfigError(f"trainer.{flag} is {value}; it must be {works}")
    for flag in ("devices", "num_nodes"):
        if isinstance(trainer[flag], int) and trainer[flag] > _MOST_PROCESSES:
            raise ConfigError(f"trainer.{flag} is {trainer[flag]}; it must be {_MOST_PROCESSES} or less")
    for flag in ("max_time", "val_check_interval"):
        if isinstance(trainer[flag], str | dict):
            check_duration(f"trainer.{flag}", trainer[flag])
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


def check_duration(name: str, time: str | dict[str, Any]) -> None:
    """Refuses what is no duration.

    Args:
        name: of the setting.
        time: text, or a mapping of units.

    Raises:
        ConfigError: naming what would work.
    """
    if isinstance(time, str):
        if not _DURATION.fullmatch(time.strip()):
            raise ConfigError(f"{name} is {time!r}; as text it must be DD:HH:MM:SS, such as 00:12:00:00")
        return
    for unit, value in time.items():
        if unit not in _UNITS or not isinstance(value, int | float) or not 0 <= value < 10**9:
            raise ConfigError(f"{name} has {unit}: {value}; it takes {', '.join(_UNITS)}, such as hours: 12")


def check_seed(seed: Any) -> None:
    """Refuses a seed that NumPy would not take.

    Raises:
        ConfigError: naming what would work.
    """
    if not isinstance(seed, bool) and isinstance(seed, int) and not 0 <= seed < _SEEDS:
        raise ConfigError(f"seed_everything is {seed}; it must be from 0 to {_SEEDS - 1}")
