"""Console output, once per run."""

from __future__ import annotations

from pathlib import Path

from lmrecipes.runtime import launcher

__all__ = ["say", "short"]


def say(text: str) -> None:
    """Prints in the main process only."""
    if launcher.is_main_process():
        print(text, flush=True)


def short(path: Path) -> str:
    """A path relative to the current folder, if it is inside it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
