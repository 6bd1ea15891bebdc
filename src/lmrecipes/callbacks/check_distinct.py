"""Fails early if two callbacks would save their state under one key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from lightning.pytorch import Callback


def check_distinct(callbacks: Sequence[Callback]) -> None:
    """Refuses callbacks whose states would overwrite each other in a checkpoint; Lightning raises a traceback.

    Raises:
        ValueError: naming the class.
    """
    stateful = [callback for callback in callbacks if _has_state(type(callback))]
    for key, n in Counter(callback.state_key for callback in stateful).items():
        if n > 1:
            name = next(type(callback).__name__ for callback in stateful if callback.state_key == key)
            raise ValueError(f"trainer.callbacks has {n} {name} with the same settings; leave one out")


def _has_state(kind: type[Callback]) -> bool:
    return kind.state_dict is not Callback.state_dict or kind.load_state_dict is not Callback.load_state_dict
