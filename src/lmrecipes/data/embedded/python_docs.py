"""English text that comes with Python itself: help topics and docstrings of the standard library."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

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


@cache
def python_documents(folder: Path) -> tuple[tuple[str, list[str]], ...]:
    """Name and paragraphs of every help topic and module of a standard library's folder."""
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
