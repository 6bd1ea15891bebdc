"""A home folder for processes that have none, such as those of a container that runs as another user."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path


def ensure_home() -> None:
    """Sets HOME and USER, which libraries need for their caches, where the system gives none.

    Raises:
        ValueError: if the temporary folder that stands in for it belongs to somebody else.
    """
    try:
        home = Path("~").expanduser()
    except RuntimeError:
        home = Path("/")
    if home != Path("/") and home.is_dir():
        return
    if home == Path("/") and os.access(home, os.W_OK) and os.environ.get("HOME"):
        return
    folder = Path(tempfile.gettempdir()) / f"lmrecipes-home-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            raise PermissionError(1, "it belongs to another user")
    except OSError as error:
        raise ValueError(f"there is no home folder, and {folder} is none ({error.strerror}); set HOME") from None
    os.environ["HOME"] = str(folder)
    os.environ.setdefault("USER", str(os.getuid()))
    if "LMRECIPES_CACHE" not in os.environ:
        print(
            f"warning: there is no home folder: prepared data goes to {folder}/.cache/lmrecipes; set LMRECIPES_CACHE "
            f"to keep it elsewhere",
            file=sys.stderr,
        )
