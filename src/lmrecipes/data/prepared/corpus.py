"""A tokenized corpus on disk: memory-mapped tokens, a vocabulary, and a manifest that describes them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lmrecipes.batches import TextStatistics
from lmrecipes.data.tokenizers.base import Vocabulary
from lmrecipes.data.tokenizers.loading import load_vocabulary
from lmrecipes.runtime.atomic_write import write_text
from lmrecipes.runtime.open_file import parse_json


class Described(Protocol):
    """A text, such as a `Source` or `Corpus`, or the settings of a vocabulary."""

    def describe(self) -> dict[str, Any]:
        """What identifies it: prepared data is reused only for an equal description."""


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The smallest type that token ids are stored in."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def mapped(path: Path, dtype: DTypeLike) -> NDArray[Any]:
    """A file of numbers mapped into memory; an empty file, which cannot be mapped, as an empty array."""
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
        return mapped(self.folder / f"{split}.bin", self.split(split)["dtype"])

    def statistics(self, split: str) -> TextStatistics:
        """Tokens, words and characters of a split."""
        info = self.split(split)
        return TextStatistics(info["tokens"], info["words"], info["characters"], self.manifest["spells"])

    def split(self, split: str) -> dict[str, Any]:
        """The manifest's entry of a split.

        Raises:
            ValueError: if there is no such split.
        """
        if split not in self.manifest["splits"]:
            raise ValueError(f"the corpus has no {split} text; it has {', '.join(self.manifest['splits'])}")
        info: dict[str, Any] = self.manifest["splits"][split]
        return info


def find_prepared(folder: Path) -> Prepared | None:
    """The corpus in this folder if its preparation was completed, else None.

    Raises:
        ValueError: if its files do not match its manifest.
    """
    manifest = read_manifest(folder, "splits", "vocabulary")
    if manifest is None:
        return None
    prepared = Prepared(folder, manifest)
    for split, info in manifest["splits"].items():
        size = info["tokens"] * np.dtype(info["dtype"]).itemsize
        check_sizes(folder, {f"{split}.bin": size, **info.get("files", {})})
    if prepared.vocabulary.digest() != manifest["vocabulary"]:
        raise ValueError(
            f"vocabulary in {folder} is not that of the tokens ({prepared.vocabulary.digest()}, not "
            f"{manifest['vocabulary']}); {_again(folder)}"
        )
    return prepared


def read_manifest(folder: Path, *keys: str) -> dict[str, Any] | None:
    """The manifest in a folder, None without one.

    Raises:
        ValueError: if it cannot be read or lacks one of the keys.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        return None
    try:
        manifest: dict[str, Any] = parse_json(path.read_text(encoding="utf-8"))
        if all(key in manifest for key in keys):
            return manifest
    except (ValueError, TypeError):
        pass
    raise ValueError(f"{path} cannot be read; {_again(folder)}")


def check_sizes(folder: Path, sizes: Mapping[str, int]) -> None:
    """Checks the sizes of prepared files.

    Args:
        folder: of the files.
        sizes: expected bytes by name.

    Raises:
        ValueError: naming the first file whose size differs.
    """
    for name, expected in sizes.items():
        file = folder / name
        size = file.stat().st_size if file.is_file() else 0
        if size != expected:
            raise ValueError(
                f"prepared data {file} has {size} bytes where its manifest says {expected}; {_again(folder)}"
            )


def check_unchanged(source: Described, described: dict[str, Any], name: str, discard: Callable[[], None]) -> None:
    """Checks that a text is what it was when its preparation began.

    Args:
        source: the text.
        described: its description at the beginning.
        name: of the text, for the message.
        discard: removes what was prepared of a text that has changed.

    Raises:
        ValueError: if it has changed.
    """
    if source.describe() != described:
        discard()
        raise ValueError(f"{name} changed while it was being prepared; prepare it again")


def write_manifest(
    folder: Path, described: dict[str, Any], settings: Described, vocabulary: Vocabulary, **entries: Any
) -> Prepared:
    """Completes a preparation.

    Args:
        folder: with everything but the manifest.
        described: the description of the text.
        settings: of the vocabulary.
        vocabulary: of the tokens.
        entries: further entries of the manifest, `splits` among them.
    """
    manifest = {
        "source": described,
        "tokenizing": settings.describe(),
        "vocabulary": vocabulary.digest(),
        "vocab_size": vocabulary.size,
        "spells": vocabulary.spells,
        **entries,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    write_text(folder / "manifest.json", json.dumps(manifest, indent=2), part=folder / "manifest.part")
    return Prepared(folder, manifest)


def _again(folder: Path) -> str:
    return f"move {folder} away and run `lmrecipes prepare` again"
