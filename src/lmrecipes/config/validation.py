"""Checks shared by the dataclasses of a configuration."""

from __future__ import annotations

from typing import Any


def at_least(settings: Any, prefix: str, **least: float) -> None:
    """Checks that fields are not below a number; a field that is None is not checked.

    Args:
        settings: the dataclass.
        prefix: its place in a recipe, such as `model.config.`.
        least: the smallest value of each field.

    Raises:
        ValueError: naming the first field that is below.
    """
    for name, smallest in least.items():
        value = getattr(settings, name)
        if value is not None and value < smallest:
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
