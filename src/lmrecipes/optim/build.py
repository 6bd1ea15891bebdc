"""Making the optimizer that a recipe names, in its fast form."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import nn
from torch.optim import Optimizer


def build_optimizer(
    make: Callable[[Iterable[nn.Parameter]], Optimizer], params: Iterable[nn.Parameter], *, fused: bool
) -> Optimizer:
    """Makes the optimizer, fused where it can be and the user did not choose otherwise.

    Args:
        make: the class with its settings.
        params: what to optimize.
        fused: False where a fused optimizer does not fit (gradient clipping with 16-mixed).
    """
    params = list(params)
    optimizer = make(params)
    settings = optimizer.defaults
    open_choice = settings.get("fused", False) is None and settings.get("foreach") is None
    if fused and open_choice and all(p.device.type in ("cpu", "cuda") for p in params):
        accepted = {k: v for k, v in settings.items() if k != "decoupled_weight_decay"}
        optimizer = type(optimizer)(params, **{**accepted, "fused": True})
        # Gradients are not scaled here. Lightning does not clip for those that would undo a scale by themselves.
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    return optimizer
