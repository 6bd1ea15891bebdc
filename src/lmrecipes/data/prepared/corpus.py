"""A tokenized corpus on disk: tokens that are mapped into memory, a vocabulary, and a manifest that says what it is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lmrecipes.batches import TextStatistics
from lmrecipes.data.tokenizers.base import Vocabulary
from lmrecipes.data.tokenizers.loading import load_vocabulary


def mapped(path: Path, dtype: DTypeLike) -> NDArray[Any]:
    """A file of numbers mapped into memory; an empty one, which cannot be, as it is."""
    return np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.empty(0, dtype)


@dataclass(frozen=True)
class Prepared:
    """A tokenized corpus on disk."""

    folder: Path
    manifest: dict[str, Any]

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary it was tokenized with."""
        return load_vocabulary(self.folder / "vocabulary")

    def tokens(self, split: str) -> NDArray[Any]:
        """The tokens of a split, mapped into memory.

        Raises:
            ValueError: if there is no such split.
        """
        about = self.split(split)
        return mapped(self.folder / f"{split}.bin", about["dtype"])

    def statistics(self, split: str) -> TextStatistics:
        """Tokens, words and characters of a split."""
        about = self.split(split)
        return TextStatistics(about["tokens"], about["words"], about["characters"], self.manifest["spells"])

    def split(self, split: str) -> dict[str, Any]:
        """What the manifest says of a split.

        Raises:
            ValueError: if there is no such split.
        """
        if split not in self.manifest["splits"]:
            raise ValueError(f"the corpus has no {split} text; it has {', '.join(self.manifest['splits'])}")
        about: dict[str, Any] = self.manifest["splits"][split]
        return about


def find_prepared(folder: Path) -> Prepared | None:
    """The corpus in this folder if it was prepared to the end, else None.

    Raises:
        ValueError: if its files are not what its manifest says.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        return None
    try:
        found = Prepared(folder, json.loads(path.read_text()))
        splits, digest = found.manifest["splits"], found.manifest["vocabulary"]
    except (json.JSONDecodeError, KeyError, TypeError):
        raise ValueError(f"{path} cannot be read; {_again(folder)}") from None
    for split, about in splits.items():
        size = about["tokens"] * np.dtype(about["dtype"]).itemsize
        for name, expected in {f"{split}.bin": size, **about.get("files", {})}.items():
            file = folder / name
            there = file.stat().st_size if file.is_file() else 0
            if there != expected:
                raise ValueError(
                    f"prepared data {file} has {there} bytes where its manifest says {expected}; {_again(folder)}"
                )
    if found.vocabulary.digest() != digest:
        raise ValueError(
            f"vocabulary in {folder} is not that of the tokens ({found.vocabulary.digest()}, not {digest}); "
            f"{_again(folder)}"
        )
    return found


def _again(folder: Path) -> str:
    return f"move {folder} away and run `lmrecipes prepare` again"
