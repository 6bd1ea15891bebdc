"""Reading documents from text, JSON lines and parquet files, whole or from one place to another."""

from __future__ import annotations

import json
import zlib
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lmrecipes.data.corpora.malformed import EMPTY, Flaws
from lmrecipes.runtime.open_file import PACKED, open_unpacked, parquet_file

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
    """Whether it begins after the end of the span, and is only read to finish a document that began within."""


def form(name: str) -> str:
    """The format of a file by its suffix; .txt if unknown."""
    path = Path(name)
    ending = Path(path.stem).suffix if path.suffix in PACKED else path.suffix
    return ending if ending in ENDINGS else ".txt"


def readable(name: str) -> bool:
    """Whether a file's name says that it can be read."""
    return name.endswith(tuple(ending + packed for ending in ENDINGS for packed in ("", *PACKED)))


def spans(name: str, path: Path | None, size: int, boundaries: Boundaries, target: int) -> Iterator[Span]:
    """A file in parts of about `target` bytes, where it can be read from the middle.

    Args:
        name: of the file.
        path: where it is; None if it is not here yet.
        size: its bytes.
        boundaries: where documents end.
        target: bytes.
    """
    whole = boundaries == "file" or Path(name).suffix in PACKED
    n = 1 if whole else max(1, -(-size // target))
    if form(name) == ".parquet":
        # Row groups are counted when read: the file may not be downloaded yet.
        for i in range(n):
            yield Span(name, i, n)
        return
    end = max(size, 1)
    for i in range(n):
        yield Span(name, end * i // n, end * (i + 1) // n if i + 1 < n or not whole else -1)


def read_documents(
    path: Path, span: Span, boundaries: Boundaries, key: str, flaws: Flaws | None = None
) -> Iterator[str]:
    """Documents that begin in a span of a file.

    Args:
        path: the file.
        span: the part of it.
        boundaries: whether every line (or row) is a document, or empty ones stand between, or the file is one.
        key: key or column with the text, of JSON lines and parquet.
        flaws: told of malformed lines; left out, they are refused.

    Raises:
        ValueError: for what is no text, with file and line.
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
        midway: whether the span may begin within a document, which then is another span's.
        blank_ends: whether an empty line ends a document.
    """
    held: list[str] = []
    size, inside = 0, False
    for text, beyond in lines:
        if blank_ends and not text.strip():
            midway = inside = False
            if held:
                yield "\n".join(held)
                held, size = [], 0
            if beyond:
                return
            continue
        if beyond and not inside and blank_ends:
            return
        if midway:
            continue
        inside = True
        for piece in _pieces(text) if text.strip() else [""] * bool(held):
            if held and size + len(piece) > LONGEST:
                yield "\n".join(held)
                held, size = [], 0
            held.append(piece)
            size += len(piece) + 1
    if held:
        yield "\n".join(held)


def _pieces(text: str) -> Iterator[str]:
    """A text that is too long in parts, cut at white space where there is some."""
    while len(text) > LONGEST:
        cut = max(text.rfind("\n", 0, LONGEST), text.rfind(" ", 0, LONGEST) if "\n" not in text[:LONGEST] else -1)
        cut = cut if cut > 0 else LONGEST
        yield text[:cut]
        text = text[cut:]
    if text.strip():
        yield text


def _lines(path: Path, span: Span, key: str | None, flaws: Flaws) -> tuple[Generator[Line, None, None], bool]:
    """Lines of a span and of what follows, and whether it may begin within a document."""
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
        return str(json.loads(line)[key]).strip()
    except (ValueError, KeyError, TypeError):
        return line


def _decoded(path: Path, start: int, end: int, key: str | None, flaws: Flaws) -> Generator[Line, None, None]:
    place = start
    with open_unpacked(path) as file:
        if start:
            file.seek(start)
        try:
            for line in file:
                beyond = 0 <= end <= place
                if (text := _text(line, path, place, key, flaws)) is not None:
                    yield Line(text, beyond)
                place += len(line)
        except (EOFError, zlib.error, OSError) as error:
            if path.suffix not in PACKED:
                raise
            problem = (
                f"{path} is damaged or truncated at byte {place:,} of its text ({error}); copy or download it again"
            )
            flaws.wrong("file cut short", problem)


def _text(line: bytes, path: Path, place: int, key: str | None, flaws: Flaws) -> str | None:
    """The text of a line that begins at a place of a file; None if it is malformed."""
    try:
        text = line.decode("utf-8" if place else "utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        flaws.wrong("line that is no UTF-8", f"{_at(path, place)} is not UTF-8 text: {error.reason}")
        return None
    if key is None or not text.strip():
        return text if key is None else ""
    try:
        text = _json_text(text, key)
    except ValueError as error:
        flaws.wrong("malformed line", f"{_at(path, place)} {error}")
        return None
    if not text.strip():
        flaws.note(EMPTY, lambda: _at(path, place))
    return text


def _at(path: Path, place: int) -> str:
    """File and number of the line that begins at a place."""
    number, left = 1, place
    with open_unpacked(path) as file:
        while left and (block := file.read(min(left, 1 << 20))):
            number += block.count(b"\n")
            left -= len(block)
    return f"{path}:{number}"


def _json_text(line: str, key: str) -> str:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"is no JSON: {error.msg}") from None
    if not isinstance(row, dict) or key not in row:
        there = ", ".join(map(str, row)) if isinstance(row, dict) else f"{type(row).__name__}, not keys and values"
        raise ValueError(f"has no key {key!r}; it has {there}")
    text = _text_of(row[key], key)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        # JSON escapes can encode lone surrogates, which UTF-8 cannot.
        raise ValueError(f"has half a character in {key}: {error.object[error.start]!r}") from None
    return text


def _text_of(value: Any, key: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"has {key} {value!r}, which is no text")
    return value


def _rows(path: Path, span: Span, key: str, flaws: Flaws) -> Generator[Line, None, None]:
    """Rows of a parquet file: those of part `start` of `end` parts of its row groups."""
    with parquet_file(path) as file:
        names = file.schema_arrow.names
        if key not in names:
            raise ValueError(f"{path} has no column {key!r}; it has {', '.join(names)}")
        n = file.num_row_groups
        for group in range(n * span.start // span.end, n * (span.start + 1) // span.end):
            number = sum(file.metadata.row_group(i).num_rows for i in range(group))
            for batch in file.iter_batches(batch_size=256, row_groups=[group], columns=[key]):
                for value in batch.column(0).to_pylist():
                    number += 1
                    try:
                        text = _text_of(value, key)
                    except ValueError as error:
                        flaws.wrong("malformed row", f"{path}:{number} {error}")
                        continue
                    if not text.strip():
                        flaws.note(EMPTY, partial("{}:{}".format, path, number))
                    yield Line(text, False)
