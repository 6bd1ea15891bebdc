"""Messages and exit codes of a run that was stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lmrecipes.callbacks import LeftBySignal, StoppedByLossGuard
from lmrecipes.checkpoints.io import newest_readable
from lmrecipes.cli import RecipeCLI
from lmrecipes.resilience import failure_report
from lmrecipes.resilience.requeue import ENDED_BY_SWEEP
from lmrecipes.runtime import launcher
from lmrecipes.runtime.console import short
from lmrecipes.runtime.launcher import job_id


def onward(left: LeftBySignal, step: int, resume: str) -> str:
    """How to continue a run that was stopped by a signal.

    Args:
        left: how it was stopped.
        step: optimizer steps done.
        resume: the command that continues it.
    """
    then = f"continue with: {resume}"
    if left.refusal is None:
        then = f"job {job_id()} is requeued"
    elif left.refusal == ENDED_BY_SWEEP:
        then = f"{left.refusal}; {then}"
    elif left.refusal:
        then = f"job {job_id()} is not requeued: {left.refusal}; {then}"
    saved = f"{left.saved.stem} is saved" if left.saved else "it could not be saved"
    return f"{left} at step {step}; {saved}; {then}"


def stop(cli: RecipeCLI, stopped: StoppedByLossGuard, resume: str) -> None:
    """Reports why LossGuard stopped, and the last good checkpoint.

    Args:
        cli: of the run.
        stopped: what was wrong.
        resume: the command that continues it.
    """
    assert cli.run_dir is not None
    if launcher.is_main_process():
        kept = newest_readable(cli.run_dir / "checkpoints")
        then = "no checkpoint was saved yet"
        if kept is not None:
            then = (
                f"{kept.stem} is the last good checkpoint; continue from it with other settings, such as a lower "
                f"learning rate: {resume} --model.optimizer.lr ..."
            )
        failure_report.say(f"{stopped}; {then}")


UNSAVED = 5
"""Exit code of a training that ended without its last weights on disk."""


def unsaved(run_dir: Path, step: int, resume: str) -> str:
    """What a training that is done lacks, because the disk took no more.

    Args:
        run_dir: of the run.
        step: optimizer steps done.
        resume: the command that continues it.
    """
    kept = newest_readable(run_dir / "checkpoints")
    then = f"; then continue from {kept.stem} with: {resume}" if kept else ""
    return f"done at step {step}, but its last weights could not be written: make room for {short(run_dir)}{then}"


def exit_code(training: Any, code: int) -> int:
    """The exit code of this rank when all ranks exit.

    Args:
        training: the Trainer or the Fabric loop.
        code: exit code of the run.
    """
    # Lightning kills the process that started others as soon as one of them reports a failure.
    environment = getattr(training.strategy, "cluster_environment", None)
    started_by_us = environment is not None and not environment.creates_processes_externally
    return 0 if started_by_us and training.local_rank else code
