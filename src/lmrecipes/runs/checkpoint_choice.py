"""Chooses a checkpoint of a run."""

from __future__ import annotations

from pathlib import Path

from lmrecipes.checkpoints import sharded
from lmrecipes.checkpoints.io import readable_checkpoint


def is_checkpoint(path: Path) -> bool:
    """Whether a path is a checkpoint, plain or sharded, rather than a run."""
    return path.is_file() or (path / sharded.MANIFEST).is_file()


def checkpoint_of(run_dir: Path, which: str) -> Path:
    """The best or last readable checkpoint of a run; the other kind if there is none.

    Raises:
        ValueError: if no checkpoint can be read.
    """
    return readable_checkpoint(run_dir / "checkpoints", f"{which}-*.ckpt", "*.ckpt")
