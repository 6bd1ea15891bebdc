"""Checks of every single value of a configuration: numbers that no setting can use, and nothing in place of a value."""

from __future__ import annotations

import importlib
import inspect
import math
import types
import typing
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from lmrecipes.config.errors import ConfigError

_LARGEST = 2**63 - 1
# What a class of one's own takes is its own affair.
_KNOWN = ("lmrecipes", "torch", "lightning")


def check_values(config: Mapping[str, Any], types_of: Mapping[str, Any]) -> None:
    """Refuses numbers that are not finite or exceed 64 bits, and `null` or an empty text for what must have a value.

    Args:
        config: a parsed configuration, as plain mappings, lists and scalars.
        types_of: types of the top level's entries, where they are known.

    Raises:
        ConfigError: naming the first such setting as typed on the command line.
    """
    # `batch` first: model and data have copies of it.
    for key in sorted(config, key=lambda key: key != "batch"):
        _check(config[key], key, types_of.get(key))


def _check(value: Any, name: str, hint: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{name} is {value}; it must be a finite number")
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise ConfigError(f"{name} is {value:.3g}; whole numbers go up to {_LARGEST:.3g}")
    if value is None and hint is not None and not _takes_none(hint):
        raise ConfigError(f"{name} is null; give a value ({_words(hint)}), or leave it out where it has a default")
    if value == "" and hint is not None:
        raise ConfigError(f"{name} is empty; give a value, or leave it out where it has a default")
    if isinstance(value, list | tuple):
        for number, entry in enumerate(value, start=1):
            _check(entry, _entry_name(name, entry, number), None)
    elif isinstance(value, Mapping):
        class_path = value.get("class_path")
        if isinstance(class_path, str):
            if class_path.partition(".")[0] not in _KNOWN:
                return
            hints, entries = _parameters(class_path), value.get("init_args") or {}
            _check(class_path, name, None)
        else:
            hints, entries = _fields(hint), value
        for key, inner in entries.items():
            _check(inner, f"{name}.{key}", hints.get(key))


def _entry_name(name: str, entry: Any, number: int) -> str:
    """An entry of a list by its class, as its own errors name it, or by its place."""
    if isinstance(entry, Mapping) and isinstance(class_path := entry.get("class_path"), str):
        return class_path.rpartition(".")[2]
    return f"{name} (entry {number})"


@lru_cache(maxsize=256)
def _parameters(class_path: str) -> Mapping[str, Any]:
    """Types of a class's own parameters by name; empty where they cannot be read."""
    module, _, name = class_path.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
        return signature_types(cls)
    except (ImportError, AttributeError, ValueError):
        return {}


def signature_types(cls: Any) -> dict[str, Any]:
    """Types of the parameters that a class is made from; those that cannot be read are left out."""
    try:
        hints, parameters = typing.get_type_hints(cls.__init__), inspect.signature(cls).parameters
    except (NameError, TypeError, ValueError):
        return {}
    known = {name: hints[name] for name in parameters if name in hints}
    # Older code declares `x: int = None`; an empty text that is the default has a meaning.
    loose = {name for name, p in parameters.items() if p.default is None and not _takes_none(known.get(name))}
    return {name: kind for name, kind in known.items() if name not in loose and parameters[name].default != ""}


def _fields(hint: Any) -> Mapping[str, Any]:
    """Types of the parameters of a dataclass, also of one that may be left out, or of a class of the top level."""
    kinds = (one for one in (hint, *typing.get_args(hint)) if inspect.isclass(one))
    return next((found for kind in kinds if (found := signature_types(kind))), {})


def _takes_none(hint: Any) -> bool:
    if hint in (Any, None, types.NoneType, object) or isinstance(hint, typing.TypeVar):
        return True
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(_takes_none(one) for one in typing.get_args(hint))
    return typing.get_origin(hint) is typing.Literal and None in typing.get_args(hint)


def _words(hint: Any) -> str:
    """A type in words, such as `float` or `int or str`."""
    parts = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    return " or ".join(dict.fromkeys(str(getattr(typing.get_origin(p) or p, "__name__", p)) for p in parts))
