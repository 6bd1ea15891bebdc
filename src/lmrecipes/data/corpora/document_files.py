"""Reading documents from text, JSON lines and parquet files, or from a span of such a file."""

from __future__ import annotations

import zlib
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from lmrecipes.data.corpora.malformed import EMPTY, Flaws
from lmrecipes.data.corpora.rows import json_row, parquet_rows, text_of
from lmrecipes.runtime.open_file import PACKED, open_unpacked, parse_json, unpacked_suffix

Boundaries = Literal["line", "blank_line", "file"]
ENDINGS = (".txt", ".jsonl", ".json", ".parquet")
LONGEST = 1_000_000
"""Characters; longer documents are cut at the end of a line."""
_BACK = 4096


class Span(NamedTuple):
    """Part of a file: bytes of text and JSON lines, row groups of parquet."""

    file: str
    start: int
    end: int


class Line(NamedTuple):
    """A line of text, or a row."""

    text: str
    beyond: bool
    """Whether it begins after the end of the span, so that it can only continue a document from within."""


def form(name: str) -> str:
    """The format of a file by its suffix; .txt if unknown."""
    suffix = unpacked_suffix(Path(name))
    return suffix if suffix in ENDINGS else ".txt"


def readable(name: str) -> bool:
    """Whether a file's name ends like that of a known format."""
    return name.endswith(tuple(ending + packed for ending in ENDINGS for packed in ("", *PACKED)))


def spans(name: str, size: int, boundaries: Boundaries, target: int) -> Iterator[Span]:
    """A file in parts of about `target` bytes, if it can be read from the middle.

    Args:
        name: of the file.
        size: in bytes.
        boundaries: where documents end.
        target: in bytes.
    """
    indivisible = boundaries == "file" or Path(name).suffix in PACKED
    n = 1 if indivisible else max(1, -(-size // target))
    if form(name) == ".parquet":
        # Row groups are counted when reading: the file may not be downloaded yet.
        for i in range(n):
            yield Span(name, i, n)
        return
    end = max(size, 1)
    for i in range(n):
        yield Span(name, end * i // n, end * (i + 1) // n if i + 1 < n or not indivisible else -1)


def read_documents(
    path: Path, span: Span, boundaries: Boundaries, key: str, flaws: Flaws | None = None
) -> Iterator[str]:
    """Documents that begin in a span of a file.

    Args:
        path: the file.
        span: part of the file.
        boundaries: whether a document is a line (or row), the lines between blank ones, or the file.
        key: key or column of the text, in JSON lines and parquet.
        flaws: collects malformed lines; left out, they are refused.

    Raises:
        ValueError: for malformed text, with file and line.
    """
    flaws = flaws or Flaws()
    if form(span.file) == ".parquet":
        lines, midway = _rows(path, span, key, flaws), False
    else:
        lines, midway = _lines(path, span, key if form(span.file) in (".json", ".jsonl") else None, flaws)
    with closing(lines):
        if boundaries == "line":
            for line in lines:
                if line.beyond:
                    return
                yield from _pieces(line.text)
        else:
            yield from _between_empty_lines(lines, midway, boundaries == "blank_line")


def _between_empty_lines(lines: Iterable[Line], midway: bool, blank_ends: bool) -> Iterator[str]:
    """Documents of several lines.

    Args:
        lines: of a span, and those after it.
        midway: whether the span may begin within a document, which then belongs to the span before.
        blank_ends: whether an empty line ends a document.
    """
    document: list[str] = []
    size, inside = 0, False
    for text, beyond in lines:
        if blank_ends and not text.strip():
            midway = inside = False
            if document:
                yield "\n".join(document)
                document, size = [], 0
            if beyond:
                return
            continue
        if beyond and not inside and blank_ends:
            return
        if midway:
            continue
        inside = True
        for piece in _pieces(text) if text.strip() else [""] * bool(document):
            if document and size + len(piece) > LONGEST:
                yield "\n".join(document)
                document, size = [], 0
            document.append(piece)
            size += len(piece) + 1
    if document:
        yield "\n".join(document)


def _pieces(text: str) -> Iterator[str]:
    """A text in parts of at most LONGEST characters, cut at white space if possible."""
    while len(text) > LONGEST:
        cut = max(text.rfind("\n", 0, LONGEST), text.rfind(" ", 0, LONGEST) if "\n" not in text[:LONGEST] else -1)
        cut = cut if cut > 0 else LONGEST
        yield text[:cut]
        text = text[cut:]
    if text.strip():
        yield text


def _lines(path: Path, span: Span, key: str | None, flaws: Flaws) -> tuple[Generator[Line, None, None], bool]:
    """Lines from the start of a span to the end of the file, and whether it may begin within a document."""
    if span.start == 0:
        return _decoded(path, 0, span.end, key, flaws), False
    with path.open("rb") as file:
        file.seek(span.start - 1)
        file.readline()
        start = file.tell()
        file.seek(max(0, start - _BACK))
        before = file.read(start - file.tell())
    # Skip the tail of the previous line.
    line_before = before[:-1].rpartition(b"\n")[2]
    return _decoded(path, start, span.end, key, flaws), bool(_content(line_before, key))


def _content(line: bytes, key: str | None) -> bytes | str:
    if key is None:
        return line.strip()
    try:
        return str(parse_json(line)[key]).strip()
    except (ValueError, KeyError, TypeError):
        return line


def _decoded(path: Path, start: int, end: int, key: str | None, flaws: Flaws) -> Generator[Line, None, None]:
    position = start
    with open_unpacked(path) as file:
        if start:
            file.seek(start)
        try:
            for line in file:
                beyond = 0 <= end <= position
                if (text := _text(line, path, position, key, flaws)) is not None:
                    yield Line(text, beyond)
                position += len(line)
        except (EOFError, zlib.error, OSError) as error:
            if path.suffix not in PACKED:
                raise
            problem = (
                f"{path} is damaged or truncated at byte {position:,} of its text ({error}); copy or download it again"
            )
            flaws.wrong("file cut short", problem)


def _text(line: bytes, path: Path, position: int, key: str | None, flaws: Flaws) -> str | None:
    """The text of a line that begins at a byte of a file; None if it is malformed."""
    try:
        text = line.decode("utf-8" if position else "utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        flaws.wrong("line that is not UTF-8", f"{_at(path, position)} is not UTF-8 text: {error.reason}")
        return None
    if key is None or not text.strip():
        return text if key is None else ""
    try:
        text = text_of(json_row(text), key)
    except ValueError as error:
        flaws.wrong("malformed line", f"{_at(path, position)} {error}")
        return None
    if not text.strip():
        flaws.note(EMPTY, lambda: _at(path, position))
    return text


def _at(path: Path, position: int) -> str:
    """File and number of the line that begins at a byte."""
    number, remaining = 1, position
    with open_unpacked(path) as file:
        while remaining and (block := file.read(min(remaining, 1 << 20))):
            number += block.count(b"\n")
            remaining -= len(block)
    return f"{path}:{number}"


def _rows(path: Path, span: Span, key: str, flaws: Flaws) -> Generator[Line, None, None]:
    """Rows of a parquet file: those of part `start` of `end` parts of its row groups."""
    for number, row in parquet_rows(path, [key], span.start, span.end):
        try:
            text = text_of(row, key)
        except ValueError as error:
            flaws.wrong("malformed row", f"{path}:{number} {error}")
            continue
        if not text.strip():
            flaws.note(EMPTY, partial("{}:{}".format, path, number))
        yield Line(text, False)
