"""Loading a checkpoint's weights and optimizer state into a model that has the same architecture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lmrecipes.checkpoints.io import BY_NAME, load_checkpoint
from lmrecipes.checkpoints.optimizer_state import fill_states, names_in_order, states_of
from lmrecipes.checkpoints.sharded import fill


@runtime_checkable
class SelectsWeights(Protocol):
    """A model that takes only some of another run's weights, or under other names: `--init_from`."""

    def select_weights(self, found: Mapping[str, Tensor], given: str) -> dict[str, Tensor]:
        """The weights to begin with, by this model's names.

        Args:
            found: the other run's weights.
            given: what the user gave, for messages.

        Raises:
            ValueError: if they do not fit.
        """


def check_weights(found: Mapping[str, Tensor], own: Mapping[str, Tensor], given: str) -> None:
    """Compares a checkpoint's weights with a network's.

    Args:
        found: the checkpoint's.
        own: the network's.
        given: what the user gave, for the message.

    Raises:
        ValueError: naming the first that is missing, unknown or of another shape.
    """
    missing, unknown = own.keys() - found.keys(), found.keys() - own.keys()
    if missing or unknown:
        name = min(missing or unknown)
        which = "missing" if missing else "unexpected"
        raise ValueError(f"{given}: {which} key {name}: the checkpoint is from a different architecture")
    for name, weight in own.items():
        if weight.shape != found[name].shape:
            raise ValueError(
                f"{given}: {name} has shape {tuple(found[name].shape)}, "
                f"but this recipe's network has {tuple(weight.shape)}"
            )


def own_weights(module: nn.Module) -> dict[str, Tensor]:
    """A module's weights by name, in whole shapes and without values, however they are split over processes."""
    own = module.state_dict(keep_vars=True)
    # Under ZeRO-3 a parameter is empty; DeepSpeed keeps its shape in `ds_shape`.
    shapes = {name: getattr(weight, "ds_shape", weight.shape) for name, weight in own.items()}
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def load_weights(module: nn.Module, path: Path, given: str, strategy: Any = None) -> None:
    """Fills a module with a checkpoint's weights: all of them, or those that its `select_weights` chooses and renames.

    Args:
        module: to be filled.
        path: the checkpoint.
        given: what the user gave, for messages.
        strategy: that spread the module already; its `set_weight` fills one weight, where that takes more than copying.

    Raises:
        ValueError: if they do not fit, naming the first that does not.
    """
    found = load_checkpoint(path)["state_dict"]
    if isinstance(module, SelectsWeights):
        found = module.select_weights(found, given)
    else:
        check_weights(found, own_weights(module), given)
    set_weight = getattr(strategy, "set_weight", fill)
    own = module.state_dict(keep_vars=True)
    for name, weight in found.items():
        set_weight(own[name], weight)


def load_optimizer_state(module: nn.Module, optimizer: Optimizer, path: Path) -> None:
    """Fills an optimizer with a checkpoint's state of the module's parameters.

    Raises:
        ValueError: if it has none of some parameter.
    """
    checkpoint = load_checkpoint(path)
    states = states_of(checkpoint, checkpoint.pop(BY_NAME, False))
    missing = [name for name in names_in_order(module, optimizer) if name not in states]
    if missing:
        raise ValueError(f"--init_optimizer: {path} has no optimizer state of {missing[0]}; leave --init_optimizer out")
    fill_states(module, optimizer, states)


@contextmanager
def naming_mismatches(module: nn.Module, checkpoint: Path | None, given: str) -> Iterator[None]:
    """Where torch refuses the checkpoint's weights, says so in one line.

    Raises:
        ValueError: as `check_weights`.
    """
    try:
        yield
    except RuntimeError as error:
        if checkpoint is not None and "loading state_dict" in str(error):
            check_weights(load_checkpoint(checkpoint)["state_dict"], module.state_dict(), given)
        raise
