"""One process prepares while others wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TypeVar

from lmrecipes.runtime.file_lock import locked

Found = TypeVar("Found")
Made = TypeVar("Made")


def find_or_make(
    find: Callable[[], Found | None], make: Callable[[], Made], lock: AbstractContextManager[None]
) -> Found | Made:
    """What `find` returns, or, if that is falsy, what `make` does; of two processes one works and the other waits."""
    if result := find():
        return result
    with lock:
        return find() or make()


@contextmanager
def preparing(folder: Path) -> Iterator[None]:
    """Creates a folder for prepared data if needed, and holds its lock.

    Raises:
        ValueError: if the folder has files that no preparation has left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / ".lock"
    names = {path.name for path in folder.iterdir()}
    if names and lock.name not in names:
        raise ValueError(f"{folder} is not empty and holds no prepared data; move it away")
    with locked(lock):
        yield
