"""Keeps a run directory to one training at a time."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

from filelock import BaseFileLock, Timeout

from lmrecipes.runtime.file_lock import acquire
from lmrecipes.runtime.open_file import parse_json

LOCK = ".training.lock"
# A killed process's data workers may hold its lock for some seconds more.
PATIENCE_S = 10.0
_held: BaseFileLock | None = None


class HeldElsewhereError(ValueError):
    """Another process trains this run."""


def hold(run_dir: Path, timeout_s: float = 0.0) -> None:
    """Holds a run directory for this process, until `release` or its end.

    Args:
        run_dir: the run directory.
        timeout_s: seconds to wait for another holder.

    Raises:
        HeldElsewhereError: if another process holds it.
        OSError: if the directory cannot be written.
    """
    global _held
    release()
    path = run_dir / LOCK
    try:
        _held = acquire(path, timeout_s)
    except Timeout:
        raise HeldElsewhereError(f"is being trained{_by(path)}") from None
    path.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}) + "\n", encoding="utf-8")


def _by(path: Path) -> str:
    """The process that the lock file names."""
    try:
        holder = parse_json(path.read_text(encoding="utf-8"))
        return f" by process {holder['pid']} on {holder['host']}"
    except (OSError, ValueError, TypeError, KeyError):
        return ""


def release() -> None:
    """Lets other processes train the run."""
    global _held
    if _held is not None:
        _held.release(force=True)
    _held = None
