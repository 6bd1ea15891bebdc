"""Optimizer state keyed by parameter name, independent of strategy and number of processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lmrecipes.checkpoints.sharded import fill

# State tensors by parameter name, then by the optimizer's key.
NamedStates = dict[str, dict[str, Tensor]]


def names_in_order(module: nn.Module, optimizer: Optimizer) -> list[str]:
    """Names of the optimizer's parameters in the order in which its own `state_dict` numbers them."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return [names[id(p)] for group in optimizer.param_groups for p in group["params"]]


def parameters_of(module: nn.Module, optimizer: Optimizer) -> Iterator[tuple[str, Tensor]]:
    """The optimizer's parameters with their names."""
    parameters = (p for group in optimizer.param_groups for p in group["params"])
    return zip(names_in_order(module, optimizer), parameters, strict=True)


def named_states(module: nn.Module, optimizer: Optimizer) -> NamedStates:
    """The optimizer's state tensors by parameter name."""
    return {
        name: {key: value for key, value in optimizer.state[parameter].items() if isinstance(value, Tensor)}
        for name, parameter in parameters_of(module, optimizer)
        if parameter in optimizer.state
    }


def to_named(state_dict: dict[str, Any], names: list[str]) -> NamedStates:
    """An optimizer's own `state_dict`, keyed by parameter name."""
    return {names[index]: dict(state) for index, state in state_dict["state"].items()}


def from_named(states: NamedStates, module: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """A state for the optimizer's own `load_state_dict`, with its current settings."""
    order = names_in_order(module, optimizer)
    return {
        "state": {index: states[name] for index, name in enumerate(order) if name in states},
        "param_groups": optimizer.state_dict()["param_groups"],
    }


def states_of(checkpoint: dict[str, Any], by_name: bool) -> NamedStates:
    """The optimizer states of a checkpoint; empty if it has none.

    Args:
        checkpoint: as read, with `optimizer_states` and, where these are numbered, `optimizer_parameters`.
        by_name: whether the states are keyed by name already.

    Raises:
        ValueError: for numbered states without the names of their parameters.
    """
    saved = checkpoint.get("optimizer_states", [])
    if not by_name:
        names = checkpoint.get("optimizer_parameters", [])
        if len(names) != len(saved):
            raise ValueError(
                "the checkpoint's optimizer state lacks the names of its parameters (optimizer_parameters)"
            )
        saved = map(to_named, saved, names)
    return {name: state for states in saved for name, state in states.items()}


def fill_states(module: nn.Module, optimizer: Optimizer, states: NamedStates) -> None:
    """Loads full states into an optimizer, sharded like its parameters."""
    for name, parameter in parameters_of(module, optimizer):
        for key, value in states.get(name, {}).items():
            room = room_for(optimizer, parameter, value.shape, value.dtype)
            fill(room, value)
            optimizer.state[parameter][key] = room


def room_for(optimizer: Optimizer, parameter: Tensor, size: Any, dtype: torch.dtype) -> Tensor:
    """Zeros for a state of a parameter, sharded like it."""
    if tuple(size) == tuple(parameter.shape):
        return torch.zeros_like(parameter, dtype=dtype)
    # Step counters stay on the CPU, except for fused optimizers.
    on_device = len(size) or optimizer.defaults.get("fused") or optimizer.defaults.get("capturable")
    return torch.zeros(size, dtype=dtype, device=parameter.device if on_device else "cpu")
