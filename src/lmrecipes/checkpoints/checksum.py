"""Checksums of files, and the one that a plain checkpoint carries of itself.

torch's zip archives hold checksums of the tensors, but none of the archive's own entries. A checkpoint's comment, which
ends the file, holds the CRC-32 of all before it, as torch wrote it: without a comment.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

_PIECE = 2**20
_COMMENT = b"lmrecipes crc32 %08x"
_OURS = re.compile(b"lmrecipes crc32 ([0-9a-f]{8})")
_LENGTH = len(_COMMENT % 0)
# The archive's last entry is of 22 bytes, and ends with the length of the comment, in two.
_END = 22
_FOLDER = 0x10
_NONE = (0).to_bytes(2, "little")


def checksum(path: Path, size: int = -1) -> int:
    """CRC-32 of a file, or of its first `size` bytes."""
    check, left = 0, path.stat().st_size if size < 0 else size
    with path.open("rb") as file:
        while left > 0 and (piece := file.read(min(_PIECE, left))):
            check, left = zlib.crc32(piece, check), left - len(piece)
    return check


class ChecksummedFile:
    """A file that torch.save writes from beginning to end, and that then receives its checksum."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._check = file, 0

    def write(self, data: Any) -> int:
        """Writes bytes."""
        self._check = zlib.crc32(data, self._check)
        return self._file.write(data)

    def flush(self) -> None:
        """Flushes what was written."""
        self._file.flush()

    def finish(self) -> None:
        """Adds the checksum."""
        self._file.seek(-len(_NONE), 2)
        self._file.write(_LENGTH.to_bytes(2, "little") + _COMMENT % self._check)


def is_intact(path: Path) -> bool:
    """Whether a plain checkpoint is as it was written; of one without a checksum, whether its tensors are.

    Raises:
        zipfile.BadZipFile: if it is no zip archive.
        OSError: if it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - _LENGTH - len(_NONE)))
        end = file.read()
    # What torch writes ends there, without a comment; Python opens an archive with any part of one.
    is_bare = end[-_END:].startswith(b"PK\5\6") and end.endswith(_NONE)
    if (found := _OURS.fullmatch(end[len(_NONE) :])) and end[: len(_NONE)] == _LENGTH.to_bytes(2, "little"):
        return zlib.crc32(_NONE, checksum(path, size - len(end))) == int(found[1], 16)
    with zipfile.ZipFile(path) as archive:
        # torch reads nothing for an entry that is marked as a folder, and leaves what was in memory.
        folders = any(entry.external_attr & _FOLDER for entry in archive.infolist())
        return is_bare and not folders and archive.testzip() is None
