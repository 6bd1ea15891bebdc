"""Weights as people have them: in a checkpoint, in a dict or bare, and named by modules that wrapped the network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor, nn

# Where programs put the tensors in what they save.
_KEYS = ("model_state_dict", "model", "module", "network")
# Names that torch's wrappers put between others, and those that stand in front of a network's own.
_ANYWHERE = frozenset(("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"))
_IN_FRONT = frozenset(("module", "model", "network", "net"))
_VERSION = "pytorch-lightning_version"


def as_checkpoint(content: Any, path: Path) -> dict[str, Any]:
    """What a file of weights holds, in the form of a checkpoint.

    Args:
        content: a checkpoint, or tensors by name, bare or in a dict.
        path: the file, for messages.

    Returns:
        With `state_dict`, and of a checkpoint all else.

    Raises:
        ValueError: if it holds no tensors by name.
    """
    if not isinstance(content, dict):
        raise ValueError(f"checkpoint {path} cannot be read: it is of type {type(content).__name__}, not a state dict")
    if isinstance(content.get("state_dict"), Mapping):
        # Lightning asks for its version.
        return {_VERSION: lightning.__version__, **content}
    weights = next((content[key] for key in _KEYS if isinstance(content.get(key), Mapping)), content)
    if not weights:
        raise ValueError(f"checkpoint {path} cannot be read: it has no state_dict, and it is empty")
    for name, value in weights.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            what = f"{name} is of type {type(value).__name__}" if isinstance(name, str) else f"{name} is not a name"
            raise ValueError(f"checkpoint {path} cannot be read: it has no state_dict, and {what}")
    return {_VERSION: lightning.__version__, "state_dict": dict(weights)}


def is_safetensors(path: Path) -> bool:
    """Whether a file is of safetensors' format, by its name or its beginning."""
    with path.open("rb") as file:
        # The length of the header in eight bytes, then JSON.
        return path.suffix == ".safetensors" or file.read(10)[8:] == b'{"'


def matched(weights: Mapping[str, Tensor], module: nn.Module, source: str) -> dict[str, Tensor]:
    """A file's weights by a module's names: without wrappers' names, and with both names of what is shared.

    Args:
        weights: the file's.
        module: the module that they are for.
        source: what the user gave, for messages.

    Returns:
        All weights of the file; those that the module does not have keep their names, behind the module's prefix.

    Raises:
        ValueError: if the module has one tensor where the file has two that differ, or a tensor where the file has none
            or one of whole numbers.
    """
    # Besides tensors a state dict may hold a module's other state.
    own = {name: value for name, value in module.state_dict(keep_vars=True).items() if isinstance(value, Tensor)}
    renamed = _renamed(weights, own)
    for name, tensor in own.items():
        value = renamed.get(name, tensor)
        if not isinstance(value, Tensor):
            raise ValueError(f"{source}: {name} is of type {type(value).__name__}, not a tensor")
        if tensor.is_floating_point() and not value.is_floating_point():
            raise ValueError(f"{source}: {name} is of type {value.dtype}; give weights that are not quantized")
    for names in _shared(own):
        given = [renamed[name] for name in names if name in renamed]
        # Of another shape than the network's: that is said when it is loaded.
        fit = all(value.shape == own[names[0]].shape for value in given)
        if fit and any(not _are_equal(given[0], other) for other in given[1:]):
            raise ValueError(
                f"{source}: {names[0]} and {names[1]} differ, but this recipe's network has one tensor for both"
            )
        if given:
            renamed |= dict.fromkeys(names, given[0])
    return renamed


def _renamed(weights: Mapping[str, Tensor], own: Iterable[str]) -> dict[str, Tensor]:
    own = list(own)
    if weights.keys() == set(own):
        return dict(weights)
    names, wanted = {name: _plain(name) for name in weights}, {name: _plain(name) for name in own}
    theirs, ours = _prefix(names.values()), _prefix(wanted.values())
    bare = {name: plain.removeprefix(theirs) for name, plain in names.items()}
    known = {plain.removeprefix(ours): name for name, plain in wanted.items()}
    # Not all that a module holds need be in its network.
    in_place = bool(ours) and any(name.startswith(ours) for name in bare.values())
    renamed = {known.get(name, name if in_place else f"{ours}{name}"): weights[key] for key, name in bare.items()}
    return renamed if len(renamed) == len(weights) else dict(weights)


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _ANYWHERE)


def _prefix(names: Iterable[str]) -> str:
    """The wrappers' names that all names begin with, up to and with the last dot."""
    split, prefix = [name.split(".")[:-1] for name in names], ""
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1 or parts[0] not in _IN_FRONT:
            break
        prefix += f"{parts[0]}."
    return prefix


def _shared(own: Mapping[str, Tensor]) -> list[list[str]]:
    """The names of every tensor that has several."""
    names: dict[int, list[str]] = {}
    for name, value in own.items():
        names.setdefault(id(value), []).append(name)
    return [several for several in names.values() if len(several) > 1]


def _are_equal(one: Tensor, other: Tensor) -> bool:
    if one.shape == other.shape and one.data_ptr() == other.data_ptr():
        return True
    # Weights that are not a number are equal to themselves here.
    return one.shape == other.shape and torch.allclose(one.float(), other.float(), rtol=0, atol=0, equal_nan=True)
