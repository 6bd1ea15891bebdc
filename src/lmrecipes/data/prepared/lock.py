"""File locks: one process prepares at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


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
    """Holds a file lock, waiting for another holder.

    The system gives a lock back when its holder ends, however it does. The file stays, with what it holds.
    """
    with _lock(path):
        yield


@contextmanager
def claimed(path: Path, wait: bool) -> Iterator[bool]:
    """Tries to hold a lock; yields False if another process has it or its folder is gone.

    Args:
        path: file of the lock.
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
