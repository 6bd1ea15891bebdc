"""The stages of a rehearsal, run in order and timed, up to the first failure."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress

from lightning.fabric.utilities.exceptions import MisconfigurationException

from lmrecipes.runtime.console import say

_LAST_LINES = 15

# Stages run on one thread, without GPUs, and report to no server.
_ALONE = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "WANDB_MODE": "offline"}


class StageError(Exception):
    """A stage failed; the message is shown."""


class Stages:
    """Runs stages and prints a row for each."""

    def __init__(self, timeout_s: float) -> None:
        """Prints the header.

        Args:
            timeout_s: time limit of each stage.
        """
        self.timeout_s = timeout_s
        self.passed = 0
        self.failed = 0
        self.skipped = 0

    def run(self, name: str, do: Callable[[], str | None]) -> None:
        """Runs a stage unless an earlier one failed; its result is shown next to it.

        An exception is recorded as its failure, and not raised.
        """
        if self.failed:
            self.skipped += 1
            say(f"{name:<28}{'not run':<10}")
            return
        began = time.perf_counter()
        problem, note = "", ""
        try:
            note = do() or ""
        except (StageError, ValueError, OSError, MisconfigurationException) as error:
            problem = str(error) or type(error).__name__
        except Exception:
            # An error in the recipe's own classes: show its traceback.
            problem = "\n".join(traceback.format_exc().splitlines()[-_LAST_LINES:])
        self.failed, self.passed = self.failed + bool(problem), self.passed + (not problem)
        row = f"{name:<28}{'FAILED' if problem else 'ok':<10}{time.perf_counter() - began:5.1f} s  {note}"
        say(row.rstrip())
        for line in problem.splitlines():
            say(f"    {line}")

    def command(self, *arguments: str, code: int = 0, variables: Mapping[str, str] | None = None) -> str:
        """Runs `lmrecipes ...` in a process group of its own.

        Args:
            arguments: the command's.
            code: expected exit code; a negative one is a signal.
            variables: added to the environment.

        Returns:
            Its output.

        Raises:
            StageError: with the last lines, if it exited otherwise or took too long.
        """
        environment = {**os.environ, **_ALONE, **(variables or {})}
        with tempfile.TemporaryFile("w+", errors="replace") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "lmrecipes", *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                ended: int | None = process.wait(self.timeout_s)
            except subprocess.TimeoutExpired:
                ended = None
            finally:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            output.seek(0)
            printed = output.read()
        if ended != code:
            last = "\n".join(printed.rstrip().splitlines()[-_LAST_LINES:])
            how = f"took longer than {self.timeout_s:g} s" if ended is None else f"ended with {_named(ended)}"
            expected = "" if code == 0 else f" instead of {_named(code)}"
            raise StageError(f"{last}\nlmrecipes {' '.join(arguments)}: {how}{expected}".lstrip())
        return printed


def _named(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
