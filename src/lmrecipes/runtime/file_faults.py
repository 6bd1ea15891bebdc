"""What is wrong with a binary file that cannot be read, in a few words."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

CARRIES_CODE = "it contains pickled objects; refusing to unpickle"
_BEGIN = 2**10
_POINTER = b"version https://git-lfs"
# torch.save's magic number before it wrote zip archives.
_LEGACY_TORCH = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
# How pickles begin: an opcode and a version.
_PROTOCOL, _PROTOCOLS = 0x80, (b"\2", b"\3", b"\4", b"\5")


def fault_of(path: Path, otherwise: str = "it is cut short or damaged") -> str:
    """What is wrong with a file that should be of a binary format.

    Args:
        path: the file.
        otherwise: what to say of one that is neither absent, empty, a git-lfs pointer, a pickle nor text.
    """
    try:
        with path.open("rb") as file:
            begin = file.read(_BEGIN)
    except OSError as error:
        return f"it cannot be opened ({error.strerror})"
    if not begin:
        return "it is empty"
    if begin.startswith(_POINTER):
        return "it is a git-lfs pointer in place of the file; fetch it with `git lfs pull`"
    if begin.startswith(_LEGACY_TORCH):
        return "it is a pickle, as torch wrote files before 1.6; save it again with torch.save, or as .safetensors"
    if begin[0] == _PROTOCOL and begin[1:2] in _PROTOCOLS:
        return "it is a pickle; refusing to unpickle"
    with suppress(UnicodeDecodeError):
        # A character may be cut at the end.
        text = (begin[:-4] if len(begin) == _BEGIN else begin).decode("utf-8")
        if all(character.isprintable() or character.isspace() for character in text):
            return "it is a text file"
    return otherwise
