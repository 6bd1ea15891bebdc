"""What commands print, once per run."""

from __future__ import annotations

from lmrecipes import runs
from lmrecipes.failures import short

__all__ = ["say", "short"]


def say(text: str) -> None:
    """Prints in the main process only."""
    if runs.is_main_process():
        print(text, flush=True)
