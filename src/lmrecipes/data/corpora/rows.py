"""Rows of tables in files: csv, tsv, JSON, JSON lines and parquet, plain or packed. Strings are never interpreted."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from lmrecipes.runtime.open_file import (
    open_unpacked,
    parquet_file,
    parse_json,
    read_json,
    reporting_damage,
    reporting_parquet,
    unpacked_suffix,
)

_DELIMITED: dict[str, dict[str, Any]] = {".csv": {}, ".tsv": {"delimiter": "\t", "quoting": csv.QUOTE_NONE}}
# The csv package's words for a misplaced quote.
_QUOTES = {
    "unexpected end of data": "a quote that begins here is never closed",
    "',' expected after '\"'": "text follows the closing quote of a field that begins here",
}
TABLES = (".parquet", ".json", ".jsonl", ".csv")
Row = tuple[int, dict[str, Any]]
"""A row of a table and its number: the line, or a count from 1 in parquet and JSON arrays."""


READER_VERSION = 2
"""What a table's rows are changes with it: tables read by another version are prepared again."""


def refuse(kind: str, problem: str) -> None:
    """Raises for a malformed row."""
    raise ValueError(problem)


def read_rows(
    path: Path, report: Callable[[str, str], None] = refuse, columns: list[str] | None = None
) -> Iterator[Row]:
    """The rows of a table.

    Args:
        path: .parquet; .csv; .tsv, in which quotes are text; .json with a list, or JSON lines under any other name.
        report: called with the kind and a description of every malformed line, which is then skipped.
        columns: the only ones to read of parquet; left out, all. Rows of other formats are read whole.

    Raises:
        ValueError: for a file that is damaged or in another format.
    """
    suffix = unpacked_suffix(path)
    if suffix == ".parquet":
        yield from parquet_rows(path, columns)
        return
    with reporting_damage(path), open_unpacked(path) as file:
        if suffix in _DELIMITED:
            yield from _delimited_rows(path, file, _DELIMITED[suffix], report)
        elif suffix == ".json" and _starts_with_bracket(file):
            for number, row in enumerate(read_json(path), start=1):
                if isinstance(row, dict):
                    yield number, row
                else:
                    report("malformed row", f"{path}:{number} is {type(row).__name__}, not keys and values")
        else:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    try:
                        yield number, json_row(line.decode("utf-8" if number > 1 else "utf-8-sig"))
                    except ValueError as error:
                        report("malformed line", f"{path}:{number} {error}")


def is_json_lines(path: Path) -> bool:
    """Whether a JSON file holds an object per line rather than one value."""
    with reporting_damage(path), open_unpacked(path) as file:
        lines = [line for line in (file.readline().strip(b"\xef\xbb\xbf \t\r\n") for _ in range(2)) if line]
        try:
            return all(isinstance(json.loads(line), dict) for line in lines) and len(lines) == 2
        except (ValueError, RecursionError):
            return False


def _starts_with_bracket(file: Any) -> bool:
    return bool(file.peek(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["))


def _delimited_rows(
    path: Path, file: IO[bytes], dialect: dict[str, Any], report: Callable[[str, str], None]
) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)
    with io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        # Strict: an unclosed quote would otherwise swallow the rest of the file.
        rows = _numbered_rows(path, csv.reader(text, strict=True, **dialect))
        header, names = next(rows, (0, []))
        if twice := [name for name, n in Counter(names).items() if n > 1 and name]:
            raise ValueError(f"{path}:{header} has two columns {twice[0]!r}; rename one of them")
        for number, values in rows:
            if len(values) == len(names):
                yield number, dict(zip(names, values, strict=True))
                continue
            fix = "; quote text that contains a comma" if unpacked_suffix(path) == ".csv" else ""
            problem = f"has {len(values)} fields, but the header has {len(names)}{fix}"
            report("malformed line", f"{path}:{number} {problem}")


def _first_undecodable(path: Path) -> int:
    """Number of the first line that is not UTF-8."""
    with open_unpacked(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 0


def _numbered_rows(path: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Rows with the numbers of the lines that they begin at; empty lines are skipped."""
    begins = 1
    try:
        for values in reader:
            if values:
                yield begins, values
            begins = reader.line_num + 1
    except UnicodeDecodeError as error:
        # Text is decoded ahead of the rows.
        raise ValueError(f"{path}:{_first_undecodable(path)} is not UTF-8 text: {error.reason}") from None
    except csv.Error as error:
        raise ValueError(
            f"{path}:{begins} cannot be read as csv: {_QUOTES.get(str(error), str(error))}; "
            f'quote the whole field, with "" for each quote within it'
        ) from None


def parquet_rows(path: Path, columns: list[str] | None = None, part: int = 0, parts: int = 1) -> Iterator[Row]:
    """The rows of a parquet file.

    Args:
        path: the file.
        columns: those to read; left out, all.
        part: which of the parts to read, from 0.
        parts: number of parts that the file's row groups are divided into.

    Raises:
        ValueError: if it cannot be read as parquet, or lacks a column or has it twice.
    """
    with reporting_parquet(path), parquet_file(path) as file:
        names = file.schema_arrow.names
        for column in columns or ():
            if column not in names:
                raise ValueError(f"{path} has no column {column!r}; it has {', '.join(names)}")
            if names.count(column) > 1:
                raise ValueError(f"{path} has two columns {column!r}; rename one of them")
        n = file.num_row_groups
        for group in range(n * part // parts, n * (part + 1) // parts):
            number = sum(file.metadata.row_group(i).num_rows for i in range(group))
            for batch in file.iter_batches(batch_size=256, row_groups=[group], columns=columns):
                yield from enumerate(batch.to_pylist(), start=number + 1)
                number += batch.num_rows


def json_row(line: str) -> dict[str, Any]:
    """The object that a line of JSON lines holds.

    Raises:
        ValueError: for anything else.
    """
    try:
        row = parse_json(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not valid JSON: {error.msg}") from None
    if not isinstance(row, dict):
        raise ValueError(f"is {type(row).__name__}, not keys and values")
    return row


def text_of(row: dict[str, Any], key: str) -> str:
    """The text under a key of a row.

    Raises:
        ValueError: if there is none (null is none), or it is not a string of whole characters.
    """
    if key not in row:
        raise ValueError(f"has no key {key!r}; it has {', '.join(map(str, row))}")
    text = row[key]
    if not isinstance(text, str):
        raise ValueError(f"has {key} {'null' if text is None else repr(text)}, which is not a string")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        # JSON escapes can encode lone surrogates, which UTF-8 cannot.
        raise ValueError(f"has half a character in {key}: {error.object[error.start]!r}") from None
    return text
