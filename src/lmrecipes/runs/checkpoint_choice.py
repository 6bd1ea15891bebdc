"""Chooses a checkpoint of a run."""

from __future__ import annotations

from pathlib import Path

from lmrecipes.checkpoints import sharded
from lmrecipes.checkpoints.io import newest_readable


def is_checkpoint(path: Path) -> bool:
    """Whether a path is a checkpoint, plain or sharded, rather than a run."""
    return path.is_file() or (path / sharded.MANIFEST).is_file()


def checkpoint_of(run_dir: Path, which: str) -> Path:
    """The best or last readable checkpoint of a run; the other kind if there is none.

    Raises:
        ValueError: if no checkpoint can be read.
    """
    folder = run_dir / "checkpoints"
    checkpoint = newest_readable(folder, pattern=f"{which}-*.ckpt") or newest_readable(folder)
    if checkpoint is None:
        raise ValueError(f"run {run_dir} has no readable checkpoint in checkpoints/")
    return checkpoint
