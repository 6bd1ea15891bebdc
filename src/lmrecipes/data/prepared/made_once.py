"""Folders of prepared data that are written whole, by one process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lmrecipes.data.prepared.lock import locked
from lmrecipes.runtime.atomic_write import new_folder


def made_once(folder: Path, write: Callable[[Path], object]) -> Path:
    """Finds a folder or makes it; of two processes one works and the other waits.

    Args:
        folder: where it is, under a name that changes with everything that its content depends on.
        write: writes the content into the folder that it is given, which becomes `folder` when all of it is there.

    Returns:
        The folder.

    Raises:
        OSError: if it cannot be written.
    """
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_name(f".{folder.name}.lock")):
            if not folder.is_dir():
                with new_folder(folder) as part:
                    write(part)
    return folder
