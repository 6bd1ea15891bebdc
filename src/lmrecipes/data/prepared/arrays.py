"""Dataclasses of arrays on disk: a .npy file per field, mapped into memory."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from lmrecipes.runtime.file_faults import CARRIES_CODE, fault_of

_DAMAGED = "it is cut short or damaged"


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
        """Maps the arrays that were saved in a folder into memory.

        Raises:
            ValueError: if a file is missing or damaged, or holds Python objects.
        """
        return cls(*(_mapped(folder / f"{field.name}.npy") for field in fields(cls)))


def _mapped(path: Path) -> np.ndarray[Any, Any]:
    try:
        # Unlike np.load, nothing but a plain array.
        array: np.ndarray[Any, Any] = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError) as error:
        reason = fault_of(path, CARRIES_CODE if "object" in str(error) else _DAMAGED)
        raise ValueError(
            f"prepared data {path} cannot be read: {reason}; move {path.parent} away and run `lmrecipes prepare` again"
        ) from error
    return array
