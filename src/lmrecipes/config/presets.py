"""Preset lists that build on others: a YAML file of callbacks or loggers may stand as an entry of another list."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from jsonargparse.typing import Path_fr

from lmrecipes.config import catalog
from lmrecipes.config.errors import parameters_of, unknown_key

LISTS = ("callbacks", "logger")
"""Settings of `trainer:` that are lists of classes."""
_ENDINGS = (".yaml", ".yml")
_KEYS = {"class_path", "init_args", "dict_kwargs"}


def with_lists_flattened(content: Any) -> Any:
    """The content of a configuration file, with list files replaced by their entries.

    An entry whose class is in an included list replaces it, and inherits the arguments that it does not give.

    Raises:
        ValueError: for a list file that is missing, holds no list, or names itself.
    """
    if isinstance(content, list):
        return _flattened(content, ()) if any(_is_file(entry) or _names_class(entry) for entry in content) else content
    if isinstance(content, dict) and isinstance(trainer := content.get("trainer"), dict):
        lists = {key: _flattened(trainer[key], ()) for key in LISTS if isinstance(trainer.get(key), list)}
        return {**content, "trainer": {**trainer, **lists}}
    return content


def as_list(value: Any) -> list[Any]:
    """The entries of a setting that may be a list, one entry, or None."""
    return value if isinstance(value, list) else [] if value is None else [value]


def list_entries(value: Any, base: Path | None = None) -> list[Any]:
    """The entries of a setting that is a list, one entry, or a file of them; other values have none.

    Args:
        value: of trainer.callbacks or trainer.logger.
        base: the folder that paths of files are relative to.

    Raises:
        ValueError: for a list file or an entry that does not work, naming it.
    """
    if isinstance(value, str):
        path = (base or Path()) / value
        return _read(path.resolve(), ()) if _is_file(value) and path.is_file() else []
    return _flattened(value, (), base) if isinstance(value, list) else as_list(value)


def _flattened(entries: list[Any], within: tuple[Path, ...], base: Path | None = None) -> list[Any]:
    """Entries with list files replaced by their entries.

    Args:
        entries: of a list.
        within: the list files that led here, by which a cycle is noticed.
        base: the folder that names of files are relative to; None: that of the file that jsonargparse is reading.
    """
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, str) and not _names_class(entry):
            listed = f"{within[-1]}: " if within else ""
            raise ValueError(
                f"{listed}entry {number} of a list of callbacks or loggers is {entry!r}; it must be a class_path, "
                f"with init_args if it has any, or the name of a list file such as default.yaml"
            )
        if isinstance(entry, dict):
            _check_entry(entry, within[-1] if within else None)
    if not any(_is_file(entry) for entry in entries):
        return entries
    flat: list[Any] = []
    inherited: dict[str, int] = {}
    for entry in entries:
        included = _read(_locate(entry, base), within) if _is_file(entry) else [entry]
        added: dict[str, int] = {}
        for other in included:
            name = _class(other)
            if (position := inherited.pop(name, None)) is not None:
                flat[position] = _merged(flat[position], other)
            else:
                position = len(flat)
                flat.append(other)
            added[name] = position
        if _is_file(entry):
            inherited |= added
    return flat


def _check_entry(entry: dict[str, Any], file: Path | None) -> None:
    """Refuses unknown keys of an entry, and arguments that its class does not take.

    Raises:
        ValueError: naming the file, if the entry is of a list file, the class and the key.
    """
    listed, class_path = f"{file}: " if file else "", entry["class_path"]
    for key in entry.keys() - _KEYS:
        raise ValueError(f"{listed}{class_path}: {unknown_key(str(key), _KEYS)}")
    arguments = entry.get("init_args") or {}
    if not isinstance(arguments, dict):
        raise ValueError(f"{listed}{class_path}: init_args is {arguments!r}; it must be a group of keys and values")
    # Those of a list in a recipe are reported by their dotted name, as they are parsed.
    if file and (known := parameters_of(class_path)) is not None:
        for key in arguments.keys() - known:
            raise ValueError(f"{listed}{class_path}: {unknown_key(str(key), known)}")


def _merged(inherited: Any, entry: Any) -> Any:
    """An entry with the arguments of the inherited one that it does not give."""
    arguments = [(one.get("init_args") or {}) if isinstance(one, dict) else {} for one in (inherited, entry)]
    return {"class_path": _class(entry), "init_args": {**arguments[0], **arguments[1]}}


def _is_file(entry: Any) -> bool:
    return isinstance(entry, str) and entry.endswith(_ENDINGS)


def _names_class(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("class_path"), str)


def _class(entry: Any) -> str:
    return str(entry.get("class_path")) if isinstance(entry, dict) else str(entry)


def _read(path: Path, within: tuple[Path, ...]) -> list[Any]:
    if path in within:
        chain = " -> ".join(str(file) for file in (*within[within.index(path) :], path))
        raise ValueError(f"{path} includes itself: {chain}")
    content = catalog.read_yaml(path)
    if _names_class(content):
        return [content]
    if not isinstance(content, list):
        raise ValueError(f"{path} holds {type(content).__name__}; it must be a list of callbacks or loggers")
    return _flattened(content, (*within, path), path.parent)


def _locate(name: str, base: Path | None) -> Path:
    """A list file by its path relative to the file that names it, or by the name it ships under."""
    if base is not None:
        if (base / name).is_file():
            return (base / name).resolve()
    else:
        with suppress(TypeError):
            return Path(Path_fr(name).absolute).resolve()
    folder = "loggers" if name in {f"{known}.yaml" for known in catalog.preset_paths("loggers")} else "callbacks"
    return catalog.find_preset(name, folder)
