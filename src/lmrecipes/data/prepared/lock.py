"""One process at a time."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def preparing(folder: Path) -> Iterator[None]:
    """Makes a folder for prepared data, unless it is there, and holds its lock.

    Raises:
        ValueError: if the folder has files, and nobody has prepared data in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / ".lock"
    there = {path.name for path in folder.iterdir()}
    if there and lock.name not in there:
        raise ValueError(f"{folder} is not empty and holds no prepared data; move it away")
    with locked(lock):
        yield


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Waits until no other process holds the lock of this name, and holds it."""
    # Appending, so that a file of this name that is none of ours keeps what it holds.
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
