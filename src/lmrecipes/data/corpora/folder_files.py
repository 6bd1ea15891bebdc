"""Which files of a folder are data, and which are passed over, with the reason; files by a pattern."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# What the hub and the `datasets` package write beside the files of a data set.
_DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
_NAMED = 6


@dataclass(frozen=True)
class FolderFiles:
    """The files of a folder."""

    read: Sequence[Path]
    """Those that are data, sorted."""
    passed_over: Mapping[str, Sequence[str]]
    """The others, relative to the folder, by the reason."""


def no_data(name: str) -> str | None:
    """The reason why a file of this name is never data; None if it may be."""
    if name.startswith("."):
        return "hidden"
    return "describes a data set" if name in _DESCRIPTIONS else None


def files_below(folder: Path, is_data: Callable[[str], bool], otherwise: str) -> FolderFiles:
    """The files of a folder and the folders below it; hidden ones, and links to folders, are passed over.

    Args:
        folder: to look through.
        is_data: whether a file of this name is data.
        otherwise: the reason for passing over those that are not.

    Raises:
        OSError: for a folder that cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise error

    read: list[Path] = []
    passed_over: dict[str, list[str]] = {}
    for place, folders, names in os.walk(folder, onerror=refuse):
        here = Path(place)
        for name in sorted(folders):
            reason = no_data(name) or ("a link to a folder" if (here / name).is_symlink() else None)
            if reason is not None:
                folders.remove(name)
                passed_over.setdefault(reason, []).append(f"{(here / name).relative_to(folder)}/")
        for name in sorted(names):
            _sort(here / name, folder, is_data, otherwise, read, passed_over)
    return FolderFiles(sorted(read), passed_over)


def files_in(folder: Path, is_data: Callable[[str], bool], otherwise: str) -> FolderFiles:
    """The files of a folder itself, likewise; folders in it are not looked into."""
    read: list[Path] = []
    passed_over: dict[str, list[str]] = {}
    for path in sorted(path for path in folder.iterdir() if not path.is_dir()):
        _sort(path, folder, is_data, otherwise, read, passed_over)
    return FolderFiles(read, passed_over)


def _sort(
    path: Path,
    folder: Path,
    is_data: Callable[[str], bool],
    otherwise: str,
    read: list[Path],
    passed_over: dict[str, list[str]],
) -> None:
    """Adds a file to those that are read, or to those that are passed over."""
    reason = no_data(path.name) or (None if is_data(path.name) else otherwise)
    if reason is None and not path.is_file():
        reason = "a link to nothing"
    if reason is None:
        read.append(path)
    else:
        passed_over.setdefault(reason, []).append(str(path.relative_to(folder)))


def matching(path: Path) -> list[Path]:
    """The file or folder of this name, or else what it matches as a pattern, sorted.

    Its folder, as far as that exists, is no pattern, whatever characters it has.
    """
    if path.exists():
        return [path]
    folder = next((parent for parent in path.parents if parent.exists()), None)
    if folder is None:
        return []
    return [folder / name for name in sorted(glob.glob(str(path.relative_to(folder)), root_dir=folder))]


def omissions(passed_over: Mapping[str, Sequence[str]]) -> str:
    """What was passed over, such as `; passed over: notes.md (not a document file), .git/ (hidden)`; may be empty."""
    parts = []
    for reason, names in passed_over.items():
        more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
        parts.append(f"{', '.join(names[:_NAMED])}{more} ({reason})")
    return f"; passed over: {', '.join(parts)}" if parts else ""


def counted(number: int, unit: str) -> str:
    """A number with its unit: 1 file, 2 files."""
    return f"{number:,} {unit}{'s' * (number != 1)}"
