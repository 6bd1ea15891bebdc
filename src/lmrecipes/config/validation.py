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
