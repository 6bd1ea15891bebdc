"""File locks, so that one process prepares while others wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

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


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a file lock, waiting for another holder; creates the lock's folder if needed.

    The operating system releases the lock when its holder exits, even if killed. The file and its content stay.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _lock(path):
        yield


@contextmanager
def claimed(path: Path, wait: bool) -> Iterator[bool]:
    """Tries to hold a lock; yields False if another process has it or its folder no longer exists.

    Args:
        path: the lock file.
        wait: whether to wait for the other process instead.
    """
    lock = _lock(path)
    try:
        lock.acquire(blocking=wait)
    except (Timeout, FileNotFoundError):
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _lock(path: Path) -> FileLock:
    # A soft lock (a file's presence) would outlive a killed holder: require the system's locks.
    return FileLock(path, preserve_lock_file=True)
