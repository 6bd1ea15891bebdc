"""Atomic writes of files and folders."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import IO, Any


@contextmanager
def replacing(
    path: Path, mode: str = "w", *, part: Path | None = None, durable: bool = False, **options: Any
) -> Iterator[IO[Any]]:
    """Opens a temporary file that replaces `path` at the end; after an error or a kill, `path` is unchanged.

    Args:
        path: the file to write.
        mode: w for text, in UTF-8, or wb.
        part: the temporary file, for a caller that holds a lock: what a kill has left of it is removed. By default a
            name that no other process uses.
        durable: whether to fsync before replacing, so that the file survives a power cut as it does a kill.
        options: other arguments of `open`.

    Raises:
        OSError: if it cannot be written.
    """
    if "b" not in mode:
        options.setdefault("encoding", "utf-8")
    if part is not None:
        part.unlink(missing_ok=True)
    for number in count():
        temporary = part or path.with_name(f".{path.name}.{os.getpid()}{f'-{number}' if number else ''}")
        try:
            # O_EXCL: never overwrites an existing file or follows a link of this name.
            file = temporary.open(mode.replace("w", "x"), **options)
            break
        except FileExistsError:
            if part is not None:
                raise
        except OSError as error:
            raise _of(path, error) from error
    try:
        with file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(temporary)):
            raise _of(path, error) from error
        raise


def _of(path: Path, error: OSError) -> OSError:
    """The error with the name that the user knows, not the temporary file's."""
    return type(error)(error.errno, error.strerror, str(path))


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
    """Yields a temporary folder that is synced to disk and renamed to `path` at the end.

    For a caller that holds a lock. After an error or a kill there is nothing at `path`; what was written stays in
    `.NAME.part`, and the next attempt overwrites it.

    Args:
        path: the folder to create; it may exist only if it is empty.

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


def replace_path(part: Path, path: Path) -> None:
    """Renames a complete file or folder to `path`, in place of the file or folder there, and syncs the rename to disk.

    Raises:
        OSError: if it cannot be renamed.
    """
    # os.replace cannot replace a folder, nor a file by a folder.
    crosswise = path.exists() and (part.is_dir() or path.is_dir())
    former = path.rename(path.with_name(f".{path.name}.former.part")) if crosswise else None
    os.replace(part, path)
    sync_folder(path.parent)
    if former is not None:
        discard(former)


def sync_folder(folder: Path) -> None:
    """Syncs a folder's entries to disk: creations, renames and removals."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def discard(path: Path) -> None:
    """Removes a file or folder if it exists; of a link, the link alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
