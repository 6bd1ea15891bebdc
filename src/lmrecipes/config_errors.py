"""One readable line for what is wrong in a configuration, with the nearest known key for a misspelt one."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import re
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from lmrecipes.published import flatten


class ConfigError(ValueError):
    """Something in the configuration cannot be used; the message is one line for the user."""


_FRAME = (
    "does not validate against",
    "subtypes:",
    "errors:",
    "given value",
    "expected a <class 'nonetype'>",
    "not a valid subclass of",
)
_UNKNOWN = re.compile(r"(?:does not accept option|Option) '([\w.]+)'|[Uu]nrecognized arguments: (--[^\s=]+)")
# A value that is none of several plain types.
_CHOICE = re.compile(r"Errors:\n((?:\s*- Expected an? .*\n)+)\s*Given value type: .*\n\s*Given value: (.*)")


def condense(message: str, options: Iterable[str] = ()) -> str:
    """The one line that matters of jsonargparse's tree of errors.

    Args:
        message: what jsonargparse raised.
        options: dotted names of known options, from which the nearest to a misspelt one is offered.
    """
    unknown = _UNKNOWN.search(message)
    if unknown:
        group = re.search(r"Group '([\w.]+)' does not accept", message)
        name = unknown.group(1) or unknown.group(2).lstrip("-")
        keys = re.findall(r'Parser key "([\w.]+)"', message)
        full = ".".join([*keys, *([group.group(1)] if group else []), name] if not unknown.group(2) else [name])
        return unknown_key(full, options)
    if choice := _CHOICE.search(message):
        keys = re.findall(r'Parser key "([\w.]+)"', message[: choice.start()])
        return f"{'.'.join(keys)}: expected {_alternatives(choice.group(1))}, got {choice.group(2)}"
    keys, leaf = [], ""
    for raw in message.splitlines():
        line = raw.strip().removeprefix("- ").strip()
        if not line or line.lower().startswith(_FRAME):
            continue
        key = re.fullmatch(r'Parser key "([\w.]+)":(.*)', line)
        if key:
            keys.append(key.group(1))
            line = key.group(2).strip()
        if line and not line.endswith(":"):
            leaf = line
            break
    leaf = re.sub(r"Expected an? <class '([\w.]+)'>\. Got value: (.*)", r"expected \1, got \2", leaf or message.strip())
    name = ".".join(keys).replace("init_args.", "")
    if leaf.endswith("got None"):
        return f"{name} is missing"
    return f"{name}: {leaf}" if name and not leaf.startswith(keys[0]) else leaf


def _alternatives(lines: str) -> str:
    """What jsonargparse would have taken: the words of its Literals, else the names of its types."""
    words = [word.strip("' ") for literal in re.findall(r"Literal\[(.*)\]", lines) for word in literal.split(",")]
    types = [name for name in re.findall(r"<class '([\w.]+)'>", lines) if name != "NoneType"]
    return " or ".join(dict.fromkeys(words or types))


def unknown_key(name: str, options: Iterable[str]) -> str:
    """The message for an option that does not exist, with the nearest that does."""
    name = name.replace("init_args.", "")
    options = sorted(set(options) - {name})
    near = difflib.get_close_matches(name, options, n=1, cutoff=0.75)
    if not near:
        leaf = name.rsplit(".", 1)[-1]
        leaves = {option.rsplit(".", 1)[-1]: option for option in options}
        near = [leaves[match] for match in difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.6)]
    return f"unknown key {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")


def known_options(config: Mapping[str, Any]) -> set[str]:
    """Dotted names of every option that the classes named in `config` accept (`init_args.` left out)."""
    found = set(flatten(config))
    _walk(config, "", found)
    return found


def _walk(value: Any, prefix: str, found: set[str]) -> None:
    if not isinstance(value, Mapping):
        return
    class_path = value.get("class_path")
    if isinstance(class_path, str):
        found.update(_parameters(class_path, prefix))
    for key, inner in value.items():
        _walk(inner, prefix if key == "init_args" else f"{prefix}.{key}" if prefix else str(key), found)


def _parameters(class_path: str, prefix: str) -> Iterator[str]:
    module, _, name = class_path.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
        hints = typing.get_type_hints(cls.__init__)
        names = list(inspect.signature(cls).parameters)
    except (ImportError, AttributeError, NameError, TypeError, ValueError):
        return
    for parameter in names:
        option = f"{prefix}.{parameter}"
        yield option
        hint = hints.get(parameter)
        if dataclasses.is_dataclass(hint):
            yield from (f"{option}.{field.name}" for field in dataclasses.fields(hint))
