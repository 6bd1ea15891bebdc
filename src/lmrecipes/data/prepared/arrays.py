"""Dataclasses of arrays on disk: a .npy file per field, mapped into memory."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np


class Arrays:
    """A base of dataclasses whose fields are all arrays."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def save(self, folder: Path) -> list[Path]:
        """Writes every array to a file of its own; returns the files."""
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / f"{field.name}.npy" for field in fields(self)]
        for field, file in zip(fields(self), files, strict=True):
            np.save(file, getattr(self, field.name))
        return files

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Maps the arrays that were saved in a folder into memory."""
        return cls(*(np.load(folder / f"{field.name}.npy", mmap_mode="r") for field in fields(cls)))
