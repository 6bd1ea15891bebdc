"""Reports a failure in one line from one rank; tracebacks go to the run's `errors/` folder."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Protocol

from lmrecipes.runtime import launcher
from lmrecipes.runtime.console import quoted, short
from lmrecipes.runtime.launcher import launch_id

FOLDER = "errors"
# Exit codes; 3 is LossGuard's. REFUSED is for errors that the user can fix.
FAILED, REFUSED, HUNG = 1, 2, 4


class Others(Protocol):
    """The other ranks of a run."""

    def fail(self, code: int, stacks: bool) -> None:
        """Tells them to exit with this code, and whether to write their stacks."""

    def states(self) -> dict[int, Any]:
        """The phase of every rank; None for ranks that do not answer."""


class State(NamedTuple):
    """The phase of a rank."""

    moves: int
    """How often it moved on since the run began."""
    waits: bool
    """Whether it waits for other ranks."""
    host: str
    what: str


_describe: Callable[[], State] | None = None
_others: Others | None = None
_ended: int | None = None
_spoke = False
_PATIENCE_S = 15.0


def connect(others: Others | None) -> None:
    """Sets the connection over which other ranks are notified of a failure."""
    global _others
    _others = others


def describe_by(describe: Callable[[], State] | None) -> None:
    """Sets the function that describes this rank's phase."""
    global _describe
    _describe = describe


def state() -> State | None:
    """The phase of this rank, if known."""
    return _describe() if _describe is not None else None


def ended() -> int | None:
    """The exit code of a failure that was reported by `report`; None if there was none."""
    return _ended


def folder() -> Path | None:
    """Folder for details; None without a run."""
    run_dir = os.environ.get(launcher.RUN_DIR_VARIABLE)
    return Path(run_dir) / FOLDER if run_dir else None


def begin() -> None:
    """Clears the failures of earlier starts; called by the main process."""
    if (errors := folder()) is not None and errors.is_dir():
        for path in errors.glob(".said-*"):
            path.unlink(missing_ok=True)


def claim() -> bool:
    """Whether this rank is the first to report a failure."""
    errors = folder()
    if errors is None:
        return True
    try:
        errors.mkdir(exist_ok=True)
        (errors / f".said-{launch_id()}").touch(exist_ok=False)
    except FileExistsError:
        return False
    except FileNotFoundError:
        # The run was refused and its directory removed.
        return False
    except OSError:
        return True
    return True


def name_of(rank: int, host: str | None = None) -> str:
    """The name of a rank in messages."""
    return f"rank {rank} on {host or platform.node()}"


def onward() -> str:
    """How to continue the run, if it has a checkpoint."""
    errors = folder()
    if errors is None or not any((errors.parent / "checkpoints").glob("*.ckpt")):
        return ""
    return f"; continue with: lmrecipes fit --resume {quoted(errors.parent)}"


def say(line: str) -> None:
    """Prints an error in one write, so that processes do not interleave."""
    sys.stdout.flush()
    sys.stderr.write(f"error: {line}\n")
    sys.stderr.flush()


def one_line(error: BaseException) -> str:
    """An error's kind and message."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words if len(words) <= 300 else words[:300] + ' …'}".removesuffix(": ")


def report(error: BaseException, rank: int, where: str, *, refused: bool) -> int:
    """Reports that this rank failed, unless another reported first, and tells the others.

    Args:
        error: what was raised.
        rank: of this process.
        where: the step.
        refused: whether it is bad input, which the message alone explains.

    Returns:
        The exit code.
    """
    global _ended
    _ended = REFUSED if refused else FAILED
    details = ""
    if not refused and (path := _file(f"rank{rank}.txt")) is not None:
        path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        details = f"; traceback: {short(path)}"
    if claim():
        if os.environ.get("LMRECIPES_TRACEBACK"):
            traceback.print_exception(error)
        message = " ".join(str(error).split()) if refused else f"{one_line(error)}{details}{onward()}"
        say(f"{name_of(rank)}{'' if refused else f' failed {where}'}: {message}")
    if _others is not None:
        _others.fail(_ended, False)
    return _ended


def _stacks_of(rank: int) -> str:
    return f"rank{rank}-stacks.txt"


def write_stacks(rank: int) -> Path | None:
    """Writes the stacks of all threads of this process."""
    path = _file(_stacks_of(rank))
    if path is not None:
        with path.open("w") as file:
            faulthandler.dump_traceback(file, all_threads=True)
    return path


def _file(name: str) -> Path | None:
    errors = folder()
    if errors is None or not errors.parent.is_dir():
        return None
    try:
        errors.mkdir(exist_ok=True)
    except OSError:
        return None
    return errors / name


def hung(rank: int, own: State) -> None:
    """Reports that the run hangs, and on which rank, unless another rank has; the stacks are written in any case.

    The hanging rank is the one with the oldest progress, preferably one that does not wait for others.
    """
    global _spoke
    path = write_stacks(rank)
    if not claim():
        return
    _spoke = True
    answers = {rank: own} if _others is None else {r: s and State(*s) for r, s in _others.states().items()}
    silent = ", ".join(f"rank {other}" for other, state in answers.items() if state is None)
    cause = f"; no answer from {silent}, which may be why" if silent else ""
    known = {other: state for other, state in answers.items() if state is not None} or {rank: own}
    first = rank if silent else min(known, key=lambda other: (known[other].moves, known[other].waits))
    worst = known.get(first, own)
    stacks = f"; stacks of all threads: {short(path.with_name(_stacks_of(first)))}" if path else ""
    say(f"{name_of(first, worst.host)} {worst.what}{cause}{stacks}{onward()}")


def end_hung() -> NoReturn:
    """Ends all ranks after they write their stacks."""
    if not _spoke:
        # The reporting rank ends this one too.
        time.sleep(_PATIENCE_S)
    if _others is not None:
        _others.fail(HUNG, True)
    leave(HUNG)


def leave(code: int) -> NoReturn:
    """Ends this process at once, whatever its threads are blocked on."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
