"""The list of checkpoints that a run wrote: only those are ever replaced or removed."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable
from contextlib import suppress
from itertools import count
from pathlib import Path

from lmrecipes import __version__
from lmrecipes.runtime.atomic_write import write_text
from lmrecipes.runtime.open_file import parse_json
from lmrecipes.runtime.path_names import is_plain

FILE = ".written.json"


def written(folder: Path) -> set[str]:
    """Names of the checkpoints that the run wrote in a folder."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        names = parse_json((folder / FILE).read_text(encoding="utf-8"))["written"]
        # A list that came with a run must not lead to files outside of its folder.
        return {name for name in names if is_plain(name)}
    return set()


def note(folder: Path, names: Iterable[str]) -> None:
    """Records checkpoints that are about to be written.

    Raises:
        OSError: if the list cannot be written.
    """
    earlier = written(folder)
    if not earlier.issuperset(names):
        _write(folder, earlier.union(names))


def forget(folder: Path) -> None:
    """Removes missing checkpoints from the list: later files of their names are not the run's."""
    earlier = written(folder)
    left = {name for name in earlier if os.path.lexists(folder / name)}
    if left != earlier:
        with suppress(OSError):
            _write(folder, left)


def _write(folder: Path, names: Iterable[str]) -> None:
    write_text(folder / FILE, json.dumps({"lmrecipes": __version__, "written": sorted(names)}))


def adopt(folder: Path, names: Iterable[str]) -> None:
    """Records the checkpoints that a run's state names, if an earlier version kept no list."""
    if not os.path.lexists(folder / FILE):
        with suppress(OSError):
            note(folder, names)


def make_way(path: Path) -> None:
    """Renames a file that has the name of a checkpoint but was not written by this run, with a warning."""
    if os.path.lexists(path) and path.name not in written(path.parent):
        keep(path)


def keep(path: Path) -> None:
    """Renames a file or folder that this run did not write, with a warning."""
    others = (path.with_name(f"{path.name}.kept{number or ''}") for number in count())
    kept = next(other for other in others if not os.path.lexists(other))
    path.rename(kept)
    warnings.warn(f"{path} holds what this run has not written; it is now {kept.name}", stacklevel=2)
