"""Signals that stop a run: recorded by the handler, handled at the end of a step."""

from __future__ import annotations

import signal
from types import FrameType

from lmrecipes.runtime.launcher import in_slurm_job

# Signals that SLURM sends before a time limit, at preemption, or when a node is drained.
SIGNALS = (signal.SIGUSR1, signal.SIGTERM)
# The first signal received, 0 for none.
_noted = 0
_training = False


def watch() -> None:
    """Records signals from now on.

    Before training there is nothing to save: outside a SLURM job a signal then ends the process.
    """
    global _noted, _training
    _noted, _training = 0, in_slurm_job()
    for number in SIGNALS:
        signal.signal(number, _note)


def ignore() -> None:
    """Ignore further signals: shutdown is in progress."""
    for number in SIGNALS:
        if signal.getsignal(number) is _note:
            signal.signal(number, signal.SIG_IGN)


def _note(number: int, frame: FrameType | None) -> None:
    global _noted
    _noted = _noted or number
    if not _training:
        raise SystemExit(128 + number)


def training_begins() -> None:
    """From now on signals are only recorded."""
    global _training
    _training = True


def noted() -> int:
    """The recorded signal, or 0."""
    return _noted
