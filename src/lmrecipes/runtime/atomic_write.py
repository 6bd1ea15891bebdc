"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import IO, Any


@contextmanager
def replacing(
    path: Path, mode: str = "w", *, part: Path | None = None, durable: bool = False, **how: Any
) -> Iterator[IO[Any]]:
    """Opens a file beside `path` that takes its place at the end; after an error or a kill, what was there still is.

    Args:
        path: the file to write.
        mode: w for text, in UTF-8, or wb.
        part: where it is written, for a caller that holds a lock: what a kill has left there is removed. Left out, a
            name that no other process has.
        durable: whether it is on the disk before it takes its place, so that a power cut harms it no more than a kill.
        how: other arguments of `open`.

    Raises:
        OSError: if it cannot be written.
    """
    if "b" not in mode:
        how.setdefault("encoding", "utf-8")
    if part is not None:
        part.unlink(missing_ok=True)
    for number in count():
        place = part or path.with_name(f".{path.name}.{os.getpid()}{f'-{number}' if number else ''}")
        try:
            # O_EXCL: never overwrites an existing file or follows a link of this name.
            file = place.open(mode.replace("w", "x"), **how)
            break
        except FileExistsError:
            if part is not None:
                raise
    try:
        with file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(place, path)
    except BaseException:
        place.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str, *, part: Path | None = None, durable: bool = False) -> None:
    """Writes a small file so that readers see the old or the new one, never a part.

    Args:
        path: the file to write.
        text: its content.
        part: as for `replacing`.
        durable: as for `replacing`.

    Raises:
        OSError: if it cannot be written.
    """
    with replacing(path, part=part, durable=durable) as file:
        file.write(text)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Gives a folder beside `path` to write files into, which takes that name at the end, its files on the disk.

    For a caller that holds a lock. After an error or a kill there is nothing at `path`; what was written stays in
    `.NAME.part`, and the next attempt writes over it.

    Args:
        path: the folder to make, which may be there only if it is empty.

    Raises:
        OSError: if it cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    yield part
    for file in part.rglob("*"):
        if file.is_file():
            with file.open("rb") as written:
                os.fsync(written.fileno())
    os.replace(part, path)
