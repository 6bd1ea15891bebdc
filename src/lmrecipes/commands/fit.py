"""`lmrecipes fit`: trains a recipe, or continues a run."""

from __future__ import annotations

import json
import platform
import sys
import time
from pathlib import Path

import lightning
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer

from lmrecipes import __version__, failures, published, runs, signals
from lmrecipes.callbacks import LeftBySignal, StoppedByLossGuard
from lmrecipes.checkpoint_io import newest_readable, step_of
from lmrecipes.cli import RecipeCLI, open_recipe
from lmrecipes.commands.say import say, short
from lmrecipes.data import load_vocabulary
from lmrecipes.requeueing import ENDED_BY_SWEEP, job_id
from lmrecipes.weights import naming_misfits


def run(argv: list[str]) -> int:
    """Trains; returns 130 if interrupted by the keyboard, 128 and its number if stopped by a signal."""
    cli = open_recipe("fit", argv)
    assert cli.run_dir is not None
    checkpoint = None
    if cli.resumed:
        checkpoint = checkpoint_to_resume(cli.run_dir)
        _note_changes(cli, cli.run_dir, checkpoint)
    elif runs.is_main_process():
        save_settings(cli, cli.run_dir)
    if runs.is_main_process():
        failures.begin()
    say(f"run directory: {short(cli.run_dir)}")
    try:
        save_vocabulary(cli, cli.run_dir)
        with naming_misfits(cli.model, checkpoint, f"--resume {short(checkpoint)}" if checkpoint else ""):
            cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint)
    except (ValueError, OSError, MisconfigurationException):
        runs.discard_if_unused()
        raise
    except LeftBySignal as left:
        return _leave(cli, left)
    except StoppedByLossGuard as stopped:
        return _stop(cli, stopped)
    except SystemExit as leaving:
        # How Lightning ends after Ctrl-C; a signal before training has a code of its own.
        if not cli.trainer.interrupted or leaving.code != 1:
            raise
    signals.ignore()
    if cli.trainer.interrupted:
        kept = newest_readable(cli.run_dir / "checkpoints")
        onward = f"continue from {kept.stem} with: lmrecipes fit --resume {short(cli.run_dir)}" if kept else ""
        say(f"interrupted at step {cli.trainer.global_step}; {onward or 'no checkpoint was saved yet'}")
        return 130
    speed = cli.trainer.callback_metrics.get("throughput/tokens_per_s")
    if speed is not None:
        say(f"training ran at {float(speed):,.0f} tokens/s")
    if (plot := cli.run_dir / "plots" / "run.png").is_file():
        say(f"curves: {short(plot)}")
    say(f"done at step {cli.trainer.global_step}; test it with: lmrecipes test --run {short(cli.run_dir)}")
    return 0


def checkpoint_to_resume(run_dir: Path) -> Path:
    """The newest checkpoint of a run that can be read.

    Raises:
        ValueError: if there is none.
    """
    checkpoint = newest_readable(run_dir / "checkpoints")
    if checkpoint is None:
        raise ValueError(f"run {short(run_dir)} has no readable checkpoint to resume from")
    return checkpoint


def _leave(cli: RecipeCLI, left: LeftBySignal) -> int:
    """Says how the run goes on, and gives the exit code."""
    signals.ignore()
    assert cli.run_dir is not None
    say(onward(left, cli.trainer.global_step, f"lmrecipes fit --resume {short(cli.run_dir)}"))
    return _code(cli, int(left.code or 0))


def onward(left: LeftBySignal, step: int, resume: str) -> str:
    """How a run goes on that was stopped by a signal.

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


def _stop(cli: RecipeCLI, stopped: StoppedByLossGuard) -> int:
    """Says what was wrong and what is left, and gives the exit code."""
    assert cli.run_dir is not None
    if runs.is_main_process():
        kept = newest_readable(cli.run_dir / "checkpoints")
        onward = "no checkpoint was saved yet"
        if kept is not None:
            onward = (
                f"{kept.stem} is the last good checkpoint; continue from it with other settings, such as a lower "
                f"learning rate: lmrecipes fit --resume {short(cli.run_dir)} --model.optimizer.lr ..."
            )
        failures.say(f"{stopped}; {onward}")
    return _code(cli, 3)


def _code(cli: RecipeCLI, code: int) -> int:
    """The exit code of this rank, when all end."""
    # Lightning kills the process that started others as soon as one of them reports a failure.
    environment = getattr(cli.trainer.strategy, "cluster_environment", None)
    started_by_us = environment is not None and not environment.creates_processes_externally
    return 0 if started_by_us and cli.trainer.local_rank else code


def save_settings(cli: RecipeCLI, run_dir: Path) -> None:
    """Keeps the configuration with the run, and by what it was begun."""
    runs.write_text(run_dir / runs.CONFIG, cli.settings())
    about = {
        "command": ["lmrecipes", *sys.argv[1:]],
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "lmrecipes": __version__,
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "python": platform.python_version(),
    }
    runs.write_text(run_dir / "run.json", json.dumps(about, indent=2) + "\n")


def _note_changes(cli: RecipeCLI, run_dir: Path, checkpoint: Path) -> None:
    """Says which settings differ from the run's own, and keeps both once training goes on with them.

    Raises:
        ValueError: if the optimizer is another one, which could not take up the state of the run's, or if no steps
            are left to train.
    """
    path, text = run_dir / runs.CONFIG, cli.settings()
    before, after = (published.flatten(yaml.safe_load(t)) for t in (path.read_text(), text))
    changed = [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]
    if not changed:
        return
    if (key := "model.optimizer.class_path") in changed:
        raise ValueError(
            f"--resume cannot change model.optimizer from {before.get(key)} to {after.get(key)}, whose state "
            f"is another; begin anew from the weights with --init_from {short(run_dir)}"
        )
    step, last = step_of(checkpoint), after["trainer.max_steps"]
    if "trainer.max_steps" in changed and 0 <= last <= step:
        raise ValueError(
            f"trainer.max_steps is {last}, but {short(run_dir)} is at step {step} already; give a larger number"
        )
    say("continuing with changed settings, which win over the checkpoint's:")
    for key in changed:
        say(f"  {key}: {before.get(key)} -> {after.get(key)}")
    if runs.is_main_process():
        cli.trainer.callbacks.append(_KeepSettings(run_dir, text))  # type: ignore[attr-defined]


class _KeepSettings(Callback):
    """Makes other settings the run's own, the earlier ones beside them, once the checkpoint was taken up with them."""

    def __init__(self, run_dir: Path, text: str) -> None:
        self.run_dir, self.text = run_dir, text

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes both."""
        path = self.run_dir / runs.CONFIG
        earlier = self.run_dir / f"config.{len(list(self.run_dir.glob('config.*.yaml'))) + 1}.yaml"
        # Never without settings, so that a run killed here can be continued.
        runs.write_text(earlier, path.read_text(encoding="utf-8"))
        runs.write_text(path, self.text)


def save_vocabulary(cli: RecipeCLI, run_dir: Path) -> None:
    """Prepares the data if that was not done, and keeps the vocabulary with the run.

    Raises:
        ValueError: if a continued run's corpus now has another vocabulary.
    """
    if not runs.is_main_process() or cli.datamodule is None:
        return
    cli.datamodule.prepare(progress=sys.stderr.isatty())
    saved, vocabulary = run_dir / runs.VOCABULARY, cli.datamodule.vocabulary
    if not saved.is_dir():
        vocabulary.save(saved)
    elif load_vocabulary(saved).digest() != vocabulary.digest():
        raise ValueError(f"data has another vocabulary now than when {short(run_dir)} was begun; start a new run")
