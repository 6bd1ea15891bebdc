"""English text that comes with Python itself: help topics and docstrings of the standard library."""

from __future__ import annotations

import ast
import inspect
import re
import sysconfig
import zlib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from lmrecipes.data.sources import SPLITS, Source
from lmrecipes.data.wikitext_style import split_words

_LEFT_OUT = {
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "site-packages",
    "turtledemo",
    "__pycache__",
    "pydoc_data",
}


class PythonText(Source):
    """Prose from the running Python, split into words, divided into splits document by document."""

    def __init__(self) -> None:
        self.folder = Path(sysconfig.get_paths()["stdlib"])
        self._text: dict[str, list[str]] = {}

    def describe(self) -> dict[str, Any]:
        """The Python that it comes from."""
        return {"python": sysconfig.get_python_version(), "stdlib": str(self.folder)}

    def has(self, split: str) -> bool:
        """All three splits are there."""
        return True

    def blocks(self, split: str) -> Iterator[str]:
        """Text of the documents that belong to the split: one in ten to val, one in ten to test."""
        if not self._text:
            self._text = {split: [] for split in SPLITS}
            for name, paragraphs in self.documents():
                place = zlib.crc32(name.encode()) % 10
                text = "".join(f"{' '.join(split_words(paragraph))}\n" for paragraph in paragraphs)
                self._text[SPLITS[{0: 1, 1: 2}.get(place, 0)]].append(text)
        yield from self._text[split]

    def documents(self) -> Sequence[tuple[str, list[str]]]:
        """Name and paragraphs of every help topic and module."""
        return _documents(self.folder)


@cache
def _documents(folder: Path) -> tuple[tuple[str, list[str]], ...]:
    return tuple(_read(folder))


def _read(folder: Path) -> Iterator[tuple[str, list[str]]]:
    topics = folder / "pydoc_data" / "topics.py"
    if topics.is_file():
        for node in ast.walk(ast.parse(topics.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Dict):
                for key, value in zip(node.keys, node.values, strict=True):
                    if isinstance(key, ast.Constant) and isinstance(value, ast.Constant):
                        yield f"topic {key.value!r}", _paragraphs(str(value.value))
    for path in sorted(folder.rglob("*.py")):
        if _LEFT_OUT & set(path.relative_to(folder).parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, ValueError):
            continue
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        texts = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, documented)]
        paragraphs = [p for text in texts if text for p in _paragraphs(text)]
        if paragraphs:
            yield path.relative_to(folder).as_posix(), paragraphs


def _paragraphs(text: str) -> list[str]:
    """Paragraphs of prose, each on one line; code examples, tables and rulers are left out."""
    kept = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        line = " ".join(paragraph.split())
        letters = sum(c.isalpha() or c == " " for c in line)
        if len(line) > 20 and letters > 0.85 * len(line) and not line.startswith((">>>", "|", "+-")):
            kept.append(line.replace('"', "").replace("`", ""))
    return kept
