"""Turns errors in a configuration into one readable line, with the nearest known key for a misspelt one."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import re
import typing
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from lmrecipes.config.published import flatten


class ConfigError(ValueError):
    """Something in the configuration cannot be used; the message is one line for the user."""


_FRAME = (
    "does not validate against",
    "subtypes:",
    "errors:",
    "given value",
    "expected a <class 'nonetype'>",
    "not a valid subclass of",
    "expected a path but",
)
_UNKNOWN = re.compile(r"(?:does not accept option|Option) '([\w.]+)'|[Uu]nrecognized arguments: (--[^\s=]+)")
# jsonargparse's report on a value that matches no member of a union.
_CHOICE = re.compile(r"Errors:\n((?:\s*- Expected an? .*\n)+)\s*Given value type: .*\n\s*Given value: (.*)")


# jsonargparse's messages about a value, and ours.
_REWORDED = (
    (r"Type typing\.Callable\[.*?\] expects a function or a callable class: ", ""),
    (r"\.*\s*Got value: (?:Namespace|NestedArg)\(.*", ""),
    (r"Expected an? <class '([\w.]+)'>\. Got value: (.*)", r"expected \1, got \2"),
    (r"Expected a typing\.Literal\[(.*)\]\. Got value: (.*)", r"expected one of \1, got \2"),
    (r"Expected an import path or a subclass spec, but got (.*?)\. Got value: .*", r"expected a class_path, got \1"),
    (r"Expected '([\w.]+)' to be a subclass of <class '([\w.]+)'>\.*", r"\1 is not a subclass of \2"),
    (
        r"Expected '([\w.]+)' to be a function that returns <class '([\w.]+)'>\.*( Got value: .*)?",
        r"\1 is not a subclass of \2",
    ),
    (r"Import path ([\w.]+) does not correspond to a subclass of (\w+)", r"\1 is not a subclass of \2"),
    (r"Unable to load config '(.*)'", r"expected a group of keys and values, got \1"),
)
_NO_CLASS = re.compile(r"module '([\w.]+)' has no attribute '(\w+)'|Expected a dot import path string: (\w+)")
# Modules searched for a class given without its module.
_MODULES = (
    "torch.optim",
    "lmrecipes.optim",
    "lmrecipes.datamodules",
    "lmrecipes.callbacks",
    "lightning.pytorch.loggers",
)
# Names that published code uses for the same settings.
_SYNONYMS = {
    **{"d_inner": "d_ff", "n_layer": "n_layers", "n_head": "n_heads"},
    **{"tgt_len": "seq_len", "dropatt": "attention_dropout", "batch_size": "global_batch_size"},
}


def _reworded(line: str) -> str:
    if no_class := _NO_CLASS.search(line):
        return _no_class(no_class.group(1), no_class.group(2) or no_class.group(3))
    for pattern, words in _REWORDED:
        line = re.sub(pattern, words, line)
    return line


def _no_class(module: str | None, name: str) -> str:
    """The message for an unknown class, with the nearest known one."""
    known: dict[str, str] = {}
    for place in (module,) if module else _MODULES:
        with suppress(ImportError):
            members = vars(importlib.import_module(place)).items()
            known |= {key: f"{place}.{key}" for key, value in members if inspect.isclass(value)}
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {known[near[0]]}?" if near else "give it with its module, as package.module.Class"
    return f"there is no class {f'{module}.{name}' if module else name}; {hint}"


def condense(message: str, options: Iterable[str] = ()) -> str:
    """The one line that matters of jsonargparse's tree of errors.

    Args:
        message: what jsonargparse raised.
        options: dotted names of known options, from which the nearest to a misspelt one is offered.
    """
    message = re.sub(r"NestedArg\(key='([\w.]+)', val=None\)", r"{'\1': None}", message)
    unknown = _UNKNOWN.search(message)
    if unknown:
        group = re.search(r"Group '([\w.]+)' does not accept", message)
        name = unknown.group(1) or unknown.group(2).lstrip("-")
        keys = re.findall(r'Parser key "([\w.]+)"', message[: unknown.start()])
        full = ".".join([*keys, *([group.group(1)] if group else []), name])
        return unknown_key(full, options)
    if (choice := _CHOICE.search(message)) and _alternatives(choice.group(1)):
        keys = re.findall(r'Parser key "([\w.]+)"', message[: choice.start()])
        return (
            f"{'.'.join(keys)}: expected {_alternatives(choice.group(1))}, got {re.sub(*_REWORDED[1], choice.group(2))}"
        )
    keys, leaf = [], ""
    for raw in message.splitlines():
        line = raw.strip().removeprefix("- ").strip()
        if not line or line.lower().startswith(_FRAME):
            continue
        key = re.fullmatch(r'Parser key "([\w.]+)":(.*)', line)
        if key:
            keys.append(key.group(1))
            line = key.group(2).strip()
        line = re.sub(*_REWORDED[0], line)
        if line.lower().startswith(_FRAME):
            continue
        if key := re.fullmatch(r'Parser key "([\w.]+)":', line):
            keys.append(key.group(1))
        elif line and not line.endswith(":"):
            leaf = line
            break
    leaf = _reworded(leaf or message.strip())
    name = ".".join(keys).replace("init_args.", "")
    if leaf.endswith("got None"):
        return f"{name} is missing"
    leaf = re.sub(r", got $", ", got nothing", leaf)
    if (given := re.search(r"Given value: (.+)", message)) and leaf == "Expected a <class 'list'>":
        leaf = f"expected classes, a list of them, or a preset, got {given[1]}"
    return f"{name}: {leaf}" if name and not leaf.startswith(keys[0]) else leaf


def _alternatives(lines: str) -> str:
    """The accepted values: the literals, or the names of the types."""
    words = [word.strip("' ") for literal in re.findall(r"Literal\[(.*)\]", lines) for word in literal.split(",")]
    types = [name for name in re.findall(r"<class '([\w.]+)'>", lines) if name != "NoneType"]
    return " or ".join(dict.fromkeys(words or types))


def unknown_key(name: str, options: Iterable[str]) -> str:
    """The message for an unknown option, with the nearest known one."""
    name = name.replace("init_args.", "")
    options = sorted(set(options) - {name})
    group, _, leaf = name.rpartition(".")
    meant = [option for option in options if option.rsplit(".", 1)[-1] == _SYNONYMS.get(leaf)]
    near = sorted(meant, key=lambda option: (not option.startswith(f"{group}."), len(option)))[:1]
    top = name.split(".")[0]
    # Prefer keys of the same group to similar spellings elsewhere.
    for those in ([option for option in options if option.split(".")[0] == top], options):
        near = near or difflib.get_close_matches(name, those, n=1, cutoff=0.75)
        if not near:
            leaves = {option.rsplit(".", 1)[-1]: option for option in those}
            near = [leaves[match] for match in difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.6)]
    return f"unknown key {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")


def misspelt_beside(missing: str, written: Mapping[str, Any], known: Iterable[str]) -> str | None:
    """The message for an unknown key in the group that another is missing from, which may be meant; None without one.

    Args:
        missing: dotted name of the missing key.
        written: the groups of a recipe, as they are written.
        known: dotted names of options that exist in any recipe.
    """
    options = set(known)
    _walk(written, "", options)
    group = missing.rpartition(".")[0]
    beside = [name for name in flatten(written) if name.rpartition(".")[0] == group and name not in options]
    return unknown_key(beside[0], options) if beside and missing in options else None


def known_options(config: Mapping[str, Any]) -> set[str]:
    """Dotted names of every option that the classes named in `config` accept (`init_args.` left out)."""
    options = set(flatten(config))
    _walk(config, "", options)
    return options


def _walk(value: Any, prefix: str, options: set[str]) -> None:
    if isinstance(value, list):
        for entry in value:
            _walk(entry, prefix, options)
    if not isinstance(value, Mapping):
        return
    class_path = value.get("class_path")
    if isinstance(class_path, str):
        options.update(_parameters(class_path, prefix))
    for key, inner in value.items():
        _walk(inner, prefix if key == "init_args" else f"{prefix}.{key}" if prefix else str(key), options)


def parameters_of(class_path: str) -> list[str] | None:
    """Names of what a class is made from; None if that cannot be told: for any keyword, or for no such class."""
    module, _, name = class_path.rpartition(".")
    try:
        parameters = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    except (ImportError, AttributeError, TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return None
    return list(parameters)


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
