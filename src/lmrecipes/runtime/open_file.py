"""Opens plain, gzip and zstd files of text, JSON or parquet; damage is reported in one line."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

PACKED = (".gz", ".zst")


def unpacked_suffix(path: Path) -> str:
    """The suffix of a file's name before that of its compression."""
    return Path(path.stem).suffix if path.suffix in PACKED else path.suffix


def open_unpacked(path: Path) -> IO[bytes]:
    """Opens a file, decompressed while it is read; damage raises the errors that `reporting_damage` reports."""
    if path.suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if path.suffix == ".zst":
        import pyarrow

        return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"))
    return path.open("rb")


@contextmanager
def reporting_damage(path: Path) -> Iterator[None]:
    """Reports a packed file that is damaged.

    Raises:
        ValueError: naming the file.
    """
    try:
        yield
    except (EOFError, zlib.error, OSError) as error:
        if path.suffix not in PACKED or isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            raise
        raise ValueError(f"{path} is damaged or truncated ({error}); copy or download it again") from None


def read_bytes(path: Path) -> bytes:
    """All of a file's content, unpacked.

    Raises:
        ValueError: if it is damaged.
    """
    with reporting_damage(path), open_unpacked(path) as file:
        return file.read()


def read_text(path: Path) -> str:
    """All of a file's text, without a byte order mark.

    Raises:
        ValueError: if it is damaged, or not UTF-8.
    """
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None


class TooDeepError(json.JSONDecodeError):
    """JSON that is nested deeper than Python's recursion goes."""


def parse_json(text: str | bytes, **how: Any) -> Any:
    """`json.loads`, for which a text that is nested too deep is no JSON like any other.

    Raises:
        json.JSONDecodeError: if it is not JSON.
    """
    try:
        return json.loads(text, **how)
    except RecursionError:
        raise TooDeepError("nested too deep to be read", "", 0) from None


def read_json(path: Path, *, distinct: bool = False) -> Any:
    """The content of a JSON file.

    Args:
        path: the file.
        distinct: whether a key that is given twice in an object is an error; otherwise the last value counts.

    Raises:
        ValueError: if it is damaged, not UTF-8, not JSON, naming line and column, or nested too deep.
    """

    def checked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            twice = next(key for key, number in Counter(key for key, _ in pairs).items() if number > 1)
            raise ValueError(f"{path} has {twice!r} twice")
        return content

    try:
        return parse_json(read_text(path), object_pairs_hook=checked if distinct else None)
    except TooDeepError as error:
        raise ValueError(f"{path} is {error.msg}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}:{error.colno} is not valid JSON: {error.msg}") from None


@contextmanager
def reporting_parquet(path: Path) -> Iterator[None]:
    """Reports a file that is not parquet, or damaged.

    Raises:
        ValueError: naming the file.
    """
    import pyarrow

    try:
        yield
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path} cannot be read as parquet: {str(error).splitlines()[0]}") from None


def parquet_file(path: Path) -> Any:
    """A parquet file, whose row groups are read later; compressed files are decompressed in memory."""
    import pyarrow
    from pyarrow import parquet

    return parquet.ParquetFile(pyarrow.BufferReader(read_bytes(path)) if path.suffix in PACKED else path)
