"""File locks that a dead process does not hold, also on file systems without system locks."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLease, Timeout

# How file systems answer that they have no locks: NFS without its lock service, Lustre and FUSE.
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
# Without system locks: seconds after which the lock of a process on another, dead machine expires. A process of this
# machine that died is noticed at once.
_EXPIRES_AFTER_S = 60.0


def acquire(path: Path, timeout_s: float = -1) -> BaseFileLock:
    """Acquires a lock; the operating system releases it when its holder exits, even if killed.

    The file and its content stay. On a file system without locks a marker beside it, `NAME.held`, takes its place,
    which the holder keeps fresh.

    Args:
        path: the lock file, in a folder that exists.
        timeout_s: seconds to wait for another holder; -1: without limit.

    Returns:
        The lock, to be released.

    Raises:
        Timeout: if another process holds it all that time.
        OSError: if the file cannot be opened.
    """
    try:
        # A soft lock (a file's presence) would outlive a killed holder: require the system's locks.
        lock: BaseFileLock = FileLock(path, preserve_lock_file=True, thread_local=False)
        lock.acquire(timeout=timeout_s)
    except OSError as error:
        if isinstance(error, Timeout) or error.errno not in _UNSUPPORTED:
            raise
        marker = path.with_name(f"{path.name}.held")
        lock = SoftFileLease(marker, lease_duration=_EXPIRES_AFTER_S, thread_local=False)
        lock.acquire(timeout=timeout_s)
    return lock


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock, waiting for another holder; creates the lock's folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = acquire(path)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def claimed(path: Path, wait: bool) -> Iterator[bool]:
    """Tries to hold a lock; yields False if another process has it or its folder no longer exists.

    Args:
        path: the lock file.
        wait: whether to wait for the other process instead.
    """
    try:
        lock = acquire(path, -1 if wait else 0)
    except (Timeout, FileNotFoundError):
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
