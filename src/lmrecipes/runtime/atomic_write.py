"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import IO, Any


@contextmanager
def replacing(path: Path, mode: str = "w", **how: Any) -> Iterator[IO[Any]]:
    """Opens a file beside `path` that takes its place at the end; after an error or a kill, what was there still is.

    Args:
        path: the file to write.
        mode: w for text, in UTF-8, or wb.
        how: other arguments of `open`.

    Raises:
        OSError: if it cannot be written.
    """
    if "b" not in mode:
        how.setdefault("encoding", "utf-8")
    for number in count():
        part = path.with_name(f".{path.name}.{os.getpid()}{f'-{number}' if number else ''}")
        try:
            # Never one that is there, nor what a link of this name leads to.
            file = part.open(mode.replace("w", "x"), **how)
            break
        except FileExistsError:
            continue
    try:
        with file:
            yield file
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Writes a small file so that readers see the old or the new one, never a part.

    Raises:
        OSError: if it cannot be written.
    """
    with replacing(path) as file:
        file.write(text)
