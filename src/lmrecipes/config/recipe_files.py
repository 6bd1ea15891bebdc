"""What recipe files hold, before LightningCLI parses them: groups checked by name, options collected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from lmrecipes.config import catalog
from lmrecipes.config.arguments import GROUPS, config_files, value_of
from lmrecipes.config.errors import ConfigError, unknown_key
from lmrecipes.config.presets import LISTS, list_entries
from lmrecipes.runtime.path_names import check_length


def without_empty_files(argv: Sequence[str]) -> list[str]:
    """A command line without the --config files that hold nothing, such as an overlay that is all comments.

    Raises:
        ConfigError: if no other file is left.
    """
    files = config_files(argv)
    empty = {str(path) for path in files if path.is_file() and catalog.read_yaml(path) is None}
    if not empty:
        return list(argv)
    if all(str(path) in empty for path in files):
        raise ConfigError(f"{files[0]} is empty; see a shipped recipe (`lmrecipes list`) for one")
    kept: list[str] = []
    words = iter(argv)
    for word in words:
        if word in ("--config", "-c"):
            name = next(words, None)
            kept += [word] if name is None else [] if name in empty else [word, name]
        elif not word.startswith(("--config=", "-c=")) or word.partition("=")[2] not in empty:
            kept.append(word)
    return kept


def as_written(content: Any) -> Any:
    """A recipe without its keys that begin with `x-`, a place for YAML anchors, and with presets by their paths."""
    if not isinstance(content, dict) or not GROUPS & content.keys():
        return content
    recipe = {key: value for key, value in content.items() if not str(key).startswith("x-")}
    recipe |= {"data": _preset(recipe["data"], "datamodules")} if "data" in recipe else {}
    if isinstance(trainer := recipe.get("trainer"), dict):
        named = {key: _preset(trainer[key], f"{key.removesuffix('s')}s") for key in LISTS if key in trainer}
        recipe["trainer"] = {**trainer, **named}
    return recipe


def _preset(value: Any, folder: str) -> Any:
    """The path of a preset that is named as on the command line; any other value as it is."""
    known = catalog.preset_paths(folder) if isinstance(value, str) else {}
    return str(known[value]) if isinstance(value, str) and value in known else value


def _check_file(value: str, setting: str, recipe: Path) -> None:
    """Refuses a file that a recipe names, relative to its own folder, and that does not exist.

    Raises:
        ConfigError: naming the recipe and the setting.
    """
    check_length(f"{recipe}: {setting}", value)
    if value.endswith((".yaml", ".yml")) and not (recipe.parent / value).is_file():
        raise ConfigError(
            f"{recipe}: {setting} is {value}, but there is no file {recipe.parent / value}; name one relative to the "
            f"recipe, a preset, or a class_path"
        )


def check_groups(files: Sequence[Path], present: set[str]) -> None:
    """Refuses unknown and missing groups by name, before their consequences are reported.

    Args:
        files: the configuration files.
        present: groups that options on the command line belong to.
    """
    for path in files:
        content = as_written(catalog.read_yaml(path))
        if not isinstance(content, dict):
            raise ConfigError(f"{path} is not a recipe: it holds a {type(content).__name__}, not keys and values")
        if "config" in content:
            raise ConfigError(f"{path}: a recipe cannot include another by `config:`; give a second --config")
        for key in content:
            if key not in GROUPS:
                raise ConfigError(f"{path}: {unknown_key(str(key), GROUPS)}")
        for key in ("trainer", "batch", "model", "data"):
            value = content.get(key, {})
            if not isinstance(value, dict | str if key in ("model", "data") else dict):
                raise ConfigError(f"{path}: {key} is {value!r:.80}; it must be a group of keys and values")
            if isinstance(value, str):
                _check_file(value, key, path)
        for key in LISTS:
            if isinstance(value := (content.get("trainer") or {}).get(key), str):
                _check_file(value, f"trainer.{key}", path)
        _list_options(content, path.parent)
        present.update(content)
    for key in ("model", "data", "batch"):
        if files and key not in present:
            raise ConfigError(f"{files[0]} has no {key} group; see a shipped recipe (`lmrecipes list`) for one")


def check_named_files(argv: Sequence[str]) -> None:
    """Checks the YAML files that options name, so that an error in one is reported with its file and line.

    Raises:
        ValueError: naming the file and the line or entry.
    """
    for option in ("--model", "--data"):
        if (value := value_of(argv, option)) and Path(value).is_file():
            catalog.read_yaml(Path(value))
    given_lists(argv)


def given_lists(argv: Sequence[str]) -> dict[str, list[Any]]:
    """The callbacks and loggers on a command line, with list files replaced by their entries."""
    lists: dict[str, list[Any]] = {key: [] for key in LISTS}
    for key in LISTS:
        for option in (f"--trainer.{key}", f"--trainer.{key}+"):
            value = value_of(argv, option)
            if value is not None and value.startswith("["):
                with suppress(yaml.YAMLError):
                    lists[key] += list_entries(yaml.safe_load(value))
            elif value is not None:
                lists[key] += list_entries(value)
    return lists


def _list_options(content: Mapping[str, Any], base: Path) -> dict[str, list[Any]]:
    trainer = content.get("trainer") or {}
    return {key: list_entries(trainer[key], base) for key in LISTS if key in trainer}


def written_groups(files: Sequence[Path], argv: Sequence[str]) -> dict[str, Any]:
    """The groups of recipe files, with the files that they or the command line name for a group."""
    groups: dict[str, Any] = {}
    for path in files:
        content = as_written(catalog.read_yaml(path)) or {}
        groups |= {key: path.parent / value if isinstance(value, str) else value for key, value in content.items()}
        groups["trainer"] = {**content.get("trainer", {}), **_list_options(content, path.parent)}
    for key in ("model", "data"):
        groups |= {key: Path(value)} if (value := value_of(argv, f"--{key}")) else {}
        if isinstance(named := groups.get(key), Path):
            groups[key] = catalog.read_yaml(named) if named.is_file() else {}
    for key, entries in given_lists(argv).items():
        trainer = groups.setdefault("trainer", {})
        trainer[key] = [*trainer.get(key, []), *entries]
    return groups
