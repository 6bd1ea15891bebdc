"""One process at a time."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Waits until no other process holds the lock of this name, and holds it."""
    # Appending, so that a file of this name that is none of ours keeps what it holds.
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
