"""Reading a command line before anything heavy is imported: names of recipes and presets, options by name."""

from __future__ import annotations

import ast
import importlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmrecipes.config import catalog

_CONFIG = ("--config", "-c")
# Options that take a preset by name, and the folder of its presets.
_PRESETS = {
    "--data": "datamodules",
    "--trainer.callbacks": "callbacks",
    "--trainer.callbacks+": "callbacks",
    "--trainer.logger": "loggers",
    "--trainer.logger+": "loggers",
}
GROUPS = {"seed_everything", "trainer", "model", "data", "batch", "published"}
"""Keys allowed at the top level of a recipe."""


def expand_names(argv: Sequence[str]) -> list[str]:
    """Replaces names of shipped recipes and presets by their paths.

    Raises:
        ValueError: for a name that is neither a file nor shipped.
    """
    expanded: list[str] = []
    words = iter(argv)
    for word in words:
        option, equals, value = word.partition("=")
        if option.startswith("-") and equals:
            expanded.append(f"{option}={_expand(option, value)}")
        elif option in (*_CONFIG, *_PRESETS):
            following = next(words, None)
            expanded += [option] if following is None else [option, _expand(option, following)]
        else:
            expanded.append(word)
    return expanded


def _expand(option: str, value: str) -> str:
    if not value and option in (*_CONFIG, *_PRESETS, "--model"):
        raise ValueError(f"{option.removesuffix('+')} is empty; give a name, a file or a class, or leave it out")
    if option in _CONFIG:
        return str(catalog.find_recipe(value))
    # Names of presets are lower case; class paths have dots or capitals.
    if option == "--data" and (value.endswith(".yaml") or re.fullmatch(r"[a-z0-9_/-]+", value)):
        return str(catalog.find_preset(value, "datamodules"))
    folder = _PRESETS.get(option)
    if folder and (value.endswith(".yaml") or value in catalog.preset_paths(folder)):
        return str(catalog.find_preset(value, folder))
    # Options of a recipe's groups only: words of other options, such as --text, stay as they are.
    return without_none(value) if option.removeprefix("--").partition(".")[0] in GROUPS else value


def without_none(value: str) -> str:
    """A value written by Python, as wandb's agent does, with `null` in place of None, which YAML reads as a word.

    A word that only contains None stays as it is.
    """
    if "None" not in value:
        return value
    try:
        return json.dumps(ast.literal_eval(value))
    except (ValueError, SyntaxError, TypeError):
        return value


def config_files(argv: Sequence[str]) -> list[Path]:
    """The files given by --config, in order."""
    return [Path(value) for option in _CONFIG for value in _values(argv, option)]


def value_of(argv: Sequence[str], option: str) -> str | None:
    """The value of an option, the last one given, or None."""
    values = _values(argv, option)
    return values[-1] if values else None


def _values(argv: Sequence[str], option: str) -> list[str]:
    values = []
    for word, following in zip(argv, [*argv[1:], None], strict=False):
        if word == option and following is not None:
            values.append(following)
        elif word.startswith(f"{option}="):
            values.append(word.removeprefix(f"{option}="))
    return values


def given_options(argv: Sequence[str]) -> list[str]:
    """Dotted names of the options on a command line, without `init_args` and `class_path`."""
    names = (word[2:].split("=", 1)[0].removesuffix("+") for word in argv if word.startswith("--"))
    return [name.replace(".init_args", "").removesuffix(".class_path") for name in names]


def class_of(class_path: str) -> Any:
    """The class that a configuration names."""
    module, _, name = class_path.rpartition(".")
    return getattr(importlib.import_module(module), name)
