"""Records what a command creates on disk, so that a refused command can undo exactly that."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from lmrecipes.runtime.atomic_write import discard


class Ledger:
    """Files and folders that this process created."""

    def __init__(self) -> None:
        # Each path with the identity of the file that was written there, once it is complete.
        self._written: dict[Path, dict[Path, _Identity] | None] = {}
        self._folders: list[Path] = []

    def make_folder(self, folder: Path, *, exist_ok: bool = True) -> None:
        """Creates a folder and its parents, and records those that did not exist.

        Raises:
            OSError: if it cannot be created.
        """
        folder = folder.absolute()
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=exist_ok)
        self._folders += reversed(missing)

    def note(self, path: Path) -> None:
        """Records a file or folder that is about to be written; one that exists already is not ours."""
        if not os.path.lexists(path):
            self._written.setdefault(path.absolute(), None)

    def seal(self, path: Path) -> None:
        """Marks a recorded file or folder as complete: later changes are not ours to undo."""
        path = path.absolute()
        if path in self._written:
            files = [path, *path.rglob("*")] if path.is_dir() else [path]
            self._written[path] = {file: _identity(file) for file in files if not file.is_dir()}

    def write_new(self, path: Path, text: str) -> None:
        """Writes and records a file that must not exist, even if another process tries the same.

        Raises:
            FileExistsError: if it exists.
        """
        with path.open("x", encoding="utf-8") as file:
            self._written[path.absolute()] = None
            file.write(text)
        self.seal(path)

    def undo(self) -> None:
        """Removes the recorded files, and the folders unless they contain other files by now."""
        for path, files in self._written.items():
            with suppress(OSError):
                if files is None:
                    discard(path)
                else:
                    _discard_same(path, files)
        for folder in reversed(self._folders):
            with suppress(OSError):
                folder.rmdir()
        self.clear()

    def clear(self) -> None:
        """Forgets the records: everything stays."""
        self._written.clear()
        self._folders.clear()


_Identity = tuple[int, int, int]


def _identity(path: Path) -> _Identity:
    status = path.lstat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _discard_same(path: Path, files: dict[Path, _Identity]) -> None:
    """Removes files that are still the same, and the folders that they leave empty."""
    for file, identity in files.items():
        if os.path.lexists(file) and _identity(file) == identity:
            file.unlink()
    if path.is_dir() and not path.is_symlink():
        for folder in (*sorted((p for p in path.rglob("*") if p.is_dir()), reverse=True), path):
            with suppress(OSError):
                folder.rmdir()
