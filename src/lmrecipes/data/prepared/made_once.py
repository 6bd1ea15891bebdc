"""Folders of prepared data that are written as a whole, by one process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lmrecipes.data.prepared.lock import find_or_make
from lmrecipes.runtime.atomic_write import new_folder
from lmrecipes.runtime.file_lock import locked


def made_once(folder: Path, write: Callable[[Path], object]) -> Path:
    """Finds a folder or makes it; of two processes one works and the other waits.

    Args:
        folder: its path, whose name changes with everything that the content depends on.
        write: writes the content into a temporary folder, which becomes `folder` once it is complete.

    Returns:
        The folder.

    Raises:
        OSError: if it cannot be written.
    """

    def make() -> None:
        with new_folder(folder) as part:
            write(part)

    find_or_make(folder.is_dir, make, locked(folder.with_name(f".{folder.name}.lock")))
    return folder
