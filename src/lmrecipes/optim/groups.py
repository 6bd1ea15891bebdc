"""Parameter groups: weight decay, LAMB's trust ratio and layer-wise rates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True, kw_only=True)
class GroupSettings:
    """Exceptions for norms and biases, and layer-wise learning-rate decay."""

    decay_norms_and_biases: bool = False
    """Whether weight decay also acts on norms and biases."""
    trust_norms_and_biases: bool = True
    """Whether LAMB's trust ratio also acts on norms and biases (NVIDIA's --skip_adaptive: false)."""
    layer_decay: float = 1.0
    """Factor of the learning rate from a layer to the one below it."""

    def __post_init__(self) -> None:
        """Validate the configuration.

        Raises:
            ValueError: naming the field.
        """
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"model.groups.layer_decay is {self.layer_decay}; it must be above 0 and at most 1")


def parameter_groups(
    network: nn.Module, settings: GroupSettings, depth_of: Callable[[str], int] | None = None
) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer, the deepest first, each with its `lr_scale`.

    Args:
        network: whose parameters that need gradients are grouped; those of one dimension are norms and biases.
        settings: how.
        depth_of: depth of a parameter by its name, 0 at the bottom; default: all equal.
    """
    by_setting: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            depth = depth_of(name) if depth_of is not None and settings.layer_decay < 1 else 0
            by_setting.setdefault((-depth, parameter.ndim < 2), []).append(parameter)
    top = -min(depth for depth, _ in by_setting)
    groups = []
    for (depth, plain), parameters in sorted(by_setting.items(), key=lambda item: item[0]):
        group: dict[str, Any] = {"params": parameters, "lr_scale": settings.layer_decay ** (top + depth)}
        if plain and not settings.decay_norms_and_biases:
            group["weight_decay"] = 0.0
        if plain and not settings.trust_norms_and_biases:
            group["trust_ratio"] = False
        groups.append(group)
    return groups
