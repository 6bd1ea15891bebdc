"""A disk that takes no more: the errors that say so, and how much room there is."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

# A full disk, a quota, a file that is too large for the file system, a file system that was remounted read-only.
_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)

_RUST = re.compile(r"(?:Os \{ code: |os error )(\d+)")


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and its causes."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def refusal(error: BaseException) -> OSError | None:
    """The error by which a disk takes no more, among an error and its causes: torch wraps some; None for others."""
    for cause in causes(error):
        # Libraries in Rust, safetensors among them, give the number in their message.
        match = _RUST.search(str(cause))
        number = getattr(cause, "errno", None) or (int(match[1]) if match else None)
        if number in _REFUSALS:
            return OSError(number, os.strerror(number), getattr(cause, "filename", None))
    return None


def explain(error: OSError, folder: Path, needed: int | None = None) -> str:
    """Why a folder takes no more, and the room it has.

    Args:
        error: one that `refusal` returns.
        folder: that was written to.
        needed: bytes that were to be written, if known.

    Returns:
        Such as "No space left on device; 120.3 MB needed, 4.1 MB free".
    """
    if error.errno == errno.EROFS:
        return os.strerror(errno.EROFS)
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    room = f"{in_bytes(shutil.disk_usage(there).free)} free"
    return f"{os.strerror(error.errno or 0)}; {'' if needed is None else f'{in_bytes(needed)} needed, '}{room}"


def check_room(folder: Path, needed: int) -> None:
    """Checks that a folder has room, before a library writes to it that would abort the process.

    Raises:
        OSError: as if the disk were full.
    """
    if shutil.disk_usage(folder).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def in_bytes(n_bytes: int) -> str:
    """A number of bytes as text, in kB, MB or GB."""
    unit, name = next((one for one in ((1e9, "GB"), (1e6, "MB")) if n_bytes >= one[0]), (1e3, "kB"))
    return f"{n_bytes / unit:,.1f} {name}"
