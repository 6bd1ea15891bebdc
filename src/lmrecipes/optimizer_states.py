"""An optimizer's state by the names of the parameters, in which form it fits any strategy and number of processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

# By parameter, then by what the optimizer calls it.
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
    """The optimizer's state; what is no tensor is left out."""
    return {
        name: {key: value for key, value in optimizer.state[parameter].items() if isinstance(value, Tensor)}
        for name, parameter in parameters_of(module, optimizer)
        if parameter in optimizer.state
    }


def to_named(state_dict: dict[str, Any], names: list[str]) -> NamedStates:
    """An optimizer's own `state_dict` by names."""
    return {names[index]: dict(state) for index, state in state_dict["state"].items()}


def from_named(states: NamedStates, module: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """What the optimizer's own `load_state_dict` takes, with its present settings."""
    order = names_in_order(module, optimizer)
    return {
        "state": {index: states[name] for index, name in enumerate(order) if name in states},
        "param_groups": optimizer.state_dict()["param_groups"],
    }
