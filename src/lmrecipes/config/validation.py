"""Checks shared by the dataclasses and classes of a configuration."""

from __future__ import annotations

import math
from typing import Any

MOST_MINUTES = 60 * 24 * 365
"""The longest time that a setting in minutes takes, a year."""


def at_least(settings: Any, prefix: str, **least: float) -> None:
    """Checks that fields are finite and not below a number; a field that is None is not checked.

    Args:
        settings: the dataclass.
        prefix: its place in a recipe, such as `model.config.`.
        least: the smallest value of each field.

    Raises:
        ValueError: naming the first field that is below.
    """
    for name, smallest in least.items():
        value = getattr(settings, name)
        if value is not None and not smallest <= value < math.inf:
            raise ValueError(f"{prefix}{name} is {value}; it must be {smallest} or more")


def is_probability(settings: Any, prefix: str, *names: str) -> None:
    """Checks that fields are at least 0 and below 1.

    Args:
        settings: the dataclass.
        prefix: its place in a recipe, such as `model.config.`.
        names: the fields.

    Raises:
        ValueError: naming the first field that is not.
    """
    for name in names:
        if not 0 <= getattr(settings, name) < 1:
            raise ValueError(f"{prefix}{name} is {getattr(settings, name)}; it must be at least 0 and below 1")


def minutes(name: str, value: float) -> float:
    """A time in minutes, above 0 and a year at most.

    Raises:
        ValueError: naming the setting.
    """
    if not 0 < value <= MOST_MINUTES:
        raise ValueError(f"{name} is {value:g}; it must be above 0, and {MOST_MINUTES:,} (a year) at most")
    return value


def count(name: str, value: int, least: int = 1, most: int = 10**6) -> int:
    """A number of things that are kept in memory.

    Raises:
        ValueError: naming the setting, if it is below `least` or above `most`.
    """
    if value < least:
        raise ValueError(f"{name} is {value}; it must be {least} or more")
    if value > most:
        raise ValueError(f"{name} is {value}; it must be {most:,} or less")
    return value


def nearest_divisor(number: int, near: int) -> int:
    """The divisor of a positive number that is nearest to another number; of very large ones, one that is near."""
    small = [n for n in range(1, min(math.isqrt(number), 10**6) + 1) if number % n == 0]
    return min((*small, *(number // n for n in small)), key=lambda n: (abs(n - near), n))
