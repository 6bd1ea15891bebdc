"""Console output: once per run, in any encoding, and never a reason for a training to end."""

from __future__ import annotations

import io
import os
import shlex
import sys
from pathlib import Path

from lmrecipes.runtime import launcher

__all__ = ["keep_going_without_output", "open_output", "quoted", "say", "short"]


def say(text: str) -> None:
    """Prints in the main process only."""
    if launcher.is_main_process():
        print(text, flush=True)


def short(path: Path) -> str:
    """A path relative to the current folder, if it is inside it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def quoted(path: Path | str) -> str:
    """A path as an argument in a command to copy: short, and quoted as a shell needs it."""
    return shlex.quote(short(Path(path)))


def open_output() -> None:
    """Opens closed standard streams to nowhere, and prints characters that the encoding lacks as escapes."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # Takes the lowest free number; otherwise the next file that is opened would be printed into.
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def keep_going_without_output() -> None:
    """Makes standard output and error ignore a reader that is gone, a full disk, or a closed terminal."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if type(stream) is io.TextIOWrapper:
            encoding, errors, by_line = stream.encoding, stream.errors, stream.line_buffering
            setattr(sys, name, _Tolerant(stream.detach(), encoding, errors, line_buffering=by_line))


class _Tolerant(io.TextIOWrapper):
    """A text stream whose failures are ignored."""

    def write(self, text: str) -> int:
        """Writes what can be written."""
        try:
            return super().write(text)
        except OSError:
            self._give_up()
            return len(text)

    def flush(self) -> None:
        """Flushes what can be flushed."""
        try:
            super().flush()
        except OSError:
            self._give_up()

    def _give_up(self) -> None:
        # What is buffered would fail again, at exit too.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
