"""Builds the optimizer of a recipe, fused if possible."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer

# Names that torch's messages give to settings.
_SETTINGS = {"learning": "lr", "epsilon": "eps", "beta": "betas"}


def build_optimizer(
    make: Callable[[Iterable[Any]], Optimizer],
    params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
    *,
    fused: bool,
) -> Optimizer:
    """Builds the optimizer, fused if it can be and the user did not choose otherwise.

    Args:
        make: the class with its settings.
        params: what to optimize; groups have a share of the rate each, `lr_scale`, if they have it.
        fused: False where a fused optimizer does not fit (gradient clipping with 16-mixed).
    """
    groups = list(params)
    try:
        optimizer = make(_copied(groups))
    except ValueError as error:
        raise ValueError(_named(str(error))) from error
    settings = optimizer.defaults
    open_choice = settings.get("fused", False) is None and settings.get("foreach") is None
    held = (p for group in optimizer.param_groups for p in group["params"])
    if fused and open_choice and all(p.device.type in ("cpu", "cuda") for p in held):
        accepted = {k: v for k, v in settings.items() if k != "decoupled_weight_decay"}
        optimizer = type(optimizer)(_copied(groups), **{**accepted, "fused": True})
        # No GradScaler is used here; without this flag Lightning refuses gradient clipping with fused optimizers.
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    for group in optimizer.param_groups:
        group["lr"] *= group.get("lr_scale", 1.0)
    return optimizer


def _named(message: str) -> str:
    """A message of torch's optimizers, "Invalid learning rate: -1.0", with the setting's name."""
    refused = re.match(r"Invalid (\w+)[^:]*: (\S+)", message)
    setting = _SETTINGS.get(refused[1], refused[1]) if refused else ""
    return f"model.optimizer.{setting} is {refused[2]}; {message}" if refused else f"model.optimizer: {message}"


def _copied(params: list[Any]) -> list[Any]:
    # torch modifies the parameter groups that it is given.
    return [dict(entry) if isinstance(entry, dict) else entry for entry in params]
