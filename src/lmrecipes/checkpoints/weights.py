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
from lmrecipes.checkpoints.weight_files import matched


@runtime_checkable
class SelectsWeights(Protocol):
    """A model that loads only some of another run's weights, or under other names: `--init_from`."""

    def select_weights(self, weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
        """The weights to start from, by this model's names.

        Args:
            weights: the other run's weights.
            source: what the user gave, for messages.

        Raises:
            ValueError: if they do not match.
        """


def check_weights(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str) -> None:
    """Compares a checkpoint's weights with a network's.

    Args:
        weights: the checkpoint's.
        expected: the network's.
        source: what the user gave, for the message.

    Raises:
        ValueError: naming the first that is missing, unknown or of another shape.
    """
    missing = next((name for name in expected if name not in weights), None)
    unknown = next((name for name in weights if name not in expected), None)
    if missing or unknown:
        what = " and ".join(
            f"{which} key {name}" for which, name in (("missing", missing), ("unexpected", unknown)) if name
        )
        raise ValueError(f"{source}: {what}: the checkpoint is from a different architecture")
    for name, weight in expected.items():
        if weight.shape != weights[name].shape:
            raise ValueError(
                f"{source}: {name} has shape {tuple(weights[name].shape)}, "
                f"but this recipe's network has {tuple(weight.shape)}"
            )


def own_weights(module: nn.Module) -> dict[str, Tensor]:
    """A module's weights by name, in full shapes and without values, however they are sharded."""
    weights = module.state_dict(keep_vars=True)
    # Under ZeRO-3 a parameter is empty; DeepSpeed keeps its shape in `ds_shape`.
    shapes = {name: getattr(weight, "ds_shape", weight.shape) for name, weight in weights.items()}
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def weights_for(module: nn.Module, path: Path, source: str) -> dict[str, Tensor]:
    """The weights of a checkpoint, or of a file that holds weights alone, by a module's names.

    Args:
        module: the module that they are for.
        path: the file.
        source: what the user gave, for messages.

    Raises:
        ValueError: if it cannot be read; what it lacks, or has besides, is for `check_weights` to say.
    """
    return matched(load_checkpoint(path, or_weights=True)["state_dict"], module, source)


def load_weights(module: nn.Module, path: Path, source: str, strategy: Any = None) -> None:
    """Loads a checkpoint's weights into a module: all of them, or those that its `select_weights` returns.

    Args:
        module: the module to load into.
        path: the checkpoint.
        source: what the user gave, for messages.
        strategy: the strategy that sharded the module, whose `set_weight` sets a weight if a copy is not enough.

    Raises:
        ValueError: if they do not match, naming the first mismatch.
    """
    weights = weights_for(module, path, source)
    if isinstance(module, SelectsWeights):
        weights = module.select_weights(weights, source)
    else:
        check_weights(weights, own_weights(module), source)
    set_weight = getattr(strategy, "set_weight", fill)
    parameters = module.state_dict(keep_vars=True)
    for name, weight in weights.items():
        set_weight(parameters[name], weight)


def load_optimizer_state(module: nn.Module, optimizer: Optimizer, path: Path) -> None:
    """Loads a checkpoint's optimizer state for the module's parameters.

    Raises:
        ValueError: if a parameter has no state.
    """
    checkpoint = load_checkpoint(path, or_weights=True)
    try:
        states = states_of(checkpoint, checkpoint.pop(BY_NAME, False))
    except ValueError as error:
        raise ValueError(f"--init_optimizer: {path}: {error}; leave --init_optimizer out") from error
    missing = [name for name in names_in_order(module, optimizer) if name not in states]
    if missing:
        raise ValueError(f"--init_optimizer: {path} has no optimizer state of {missing[0]}; leave --init_optimizer out")
    fill_states(module, optimizer, states)


@contextmanager
def naming_mismatches(module: nn.Module, checkpoint: Path | None, source: str) -> Iterator[None]:
    """Turns torch's refusal of a checkpoint's weights into one line.

    Raises:
        ValueError: as `check_weights`.
    """
    try:
        yield
    except RuntimeError as error:
        if checkpoint is not None and "loading state_dict" in str(error):
            check_weights(weights_for(module, checkpoint, source), module.state_dict(), source)
        raise
