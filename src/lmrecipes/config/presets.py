"""Preset lists that build on others: a YAML file of callbacks or loggers may stand as an entry of another list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse.typing import Path_fr

from lmrecipes.config import catalog

_LISTS = ("callbacks", "logger")
_ENDINGS = (".yaml", ".yml")


def with_lists_flattened(content: Any) -> Any:
    """The content of a configuration file, with list files replaced by their entries.

    An entry whose class is in an included list replaces it, and inherits the arguments that it does not give.

    Raises:
        ValueError: for a list file that is missing, holds no list, or names itself.
    """
    if isinstance(content, list):
        return _flattened(content, ())
    if isinstance(content, dict) and isinstance(trainer := content.get("trainer"), dict):
        lists = {key: _flattened(trainer[key], ()) for key in _LISTS if isinstance(trainer.get(key), list)}
        return {**content, "trainer": {**trainer, **lists}}
    return content


def as_list(value: Any) -> list[Any]:
    """The entries of a setting that may be a list, one entry, or None."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _flattened(entries: list[Any], within: tuple[Path, ...]) -> list[Any]:
    if not any(_is_file(entry) for entry in entries):
        return entries
    flat: list[Any] = []
    inherited: dict[str, int] = {}
    for entry in entries:
        if _is_file(entry):
            for other in _read(entry, within):
                inherited[_class(other)] = len(flat)
                flat.append(other)
        elif (place := inherited.pop(_class(entry), None)) is not None:
            arguments = {**(flat[place].get("init_args") or {}), **(entry.get("init_args") or {})}
            flat[place] = {**entry, "init_args": arguments}
        else:
            flat.append(entry)
    return flat


def _is_file(entry: Any) -> bool:
    return isinstance(entry, str) and entry.endswith(_ENDINGS)


def _class(entry: Any) -> str:
    return str(entry.get("class_path")) if isinstance(entry, dict) else str(entry)


def _read(name: str, within: tuple[Path, ...]) -> list[Any]:
    path = _locate(name, within)
    if path in within:
        raise ValueError(f"{path} names itself as one of its entries")
    content = catalog.read_yaml(path)
    if not isinstance(content, list):
        raise ValueError(f"{path} holds {type(content).__name__}; as an entry of a list it must be a list")
    return _flattened(content, (*within, path))


def _locate(name: str, within: tuple[Path, ...]) -> Path:
    """A list file by its path relative to the file that names it, or by the name it ships under."""
    if within:
        beside = within[-1].parent / name
        if beside.is_file():
            return beside.resolve()
    else:
        try:
            # Resolved relative to the file that jsonargparse is reading.
            return Path(Path_fr(name).absolute).resolve()
        except TypeError:
            pass
    folder = "loggers" if name in {f"{known}.yaml" for known in catalog.preset_paths("loggers")} else "callbacks"
    return catalog.find_preset(name, folder)
