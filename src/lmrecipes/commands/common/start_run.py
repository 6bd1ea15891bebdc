"""Starting or resuming a run: settings, vocabulary, checkpoint."""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer

from lmrecipes import runs
from lmrecipes.checkpoints.io import readable_checkpoint, step_of
from lmrecipes.cli import RecipeCLI
from lmrecipes.config import published
from lmrecipes.data import load_vocabulary
from lmrecipes.resilience import failure_report
from lmrecipes.runtime import launcher
from lmrecipes.runtime.console import quoted, say, short

# Settings that determine the position in the data.
_POSITION = ("batch.global_batch_size", "batch.seq_len")


def begin(cli: RecipeCLI, run_dir: Path) -> tuple[Path | None, list[Callback]]:
    """Prints the run directory; saves a new run's settings, or prepares a resume.

    Returns:
        The checkpoint to resume from, and the callbacks that save changed settings.

    Raises:
        ValueError: if the run cannot be resumed with these settings.
    """
    checkpoint, keeping = None, []
    if cli.resumed:
        checkpoint = _checkpoint_to_resume(run_dir)
        keeping = _note_changes(cli, run_dir, checkpoint)
    elif launcher.is_main_process():
        runs.write_text(run_dir / runs.CONFIG, cli.settings())
    if launcher.is_main_process():
        failure_report.begin()
    if not cli.config.trainer.fast_dev_run:
        say(f"run directory: {short(run_dir)}")
    return checkpoint, keeping


def _checkpoint_to_resume(run_dir: Path) -> Path:
    """The newest checkpoint of a run that can be read.

    Raises:
        ValueError: if there is none.
    """
    try:
        return readable_checkpoint(run_dir / "checkpoints", "*.ckpt", keep=True)
    except ValueError as error:
        raise ValueError(f"{error}; start over with another --run_dir") from error


def _note_changes(cli: RecipeCLI, run_dir: Path, checkpoint: Path) -> list[Callback]:
    """Prints the settings that differ from the run's own.

    Returns:
        The callback that saves both once training continues with them.

    Raises:
        ValueError: if the optimizer is another one, whose state is incompatible, if the position in
            the data would change, or if no steps are left to train.
    """
    path, text = run_dir / runs.CONFIG, cli.settings()
    before, after = (published.flatten(yaml.safe_load(t)) for t in (path.read_text(), text))
    changed = [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]
    if not changed:
        return []
    if (key := "model.optimizer.class_path") in changed:
        raise ValueError(
            f"--resume cannot change model.optimizer: the optimizer states of {before.get(key)} and {after.get(key)} "
            f"are incompatible; start a new run with --init_from {quoted(run_dir)}"
        )
    for key in _POSITION:
        if key in changed:
            raise ValueError(
                f"--resume cannot change {key} from {before.get(key)} to {after.get(key)}, by which the position in "
                f"the data is counted; leave it, or start a new run with --init_from {quoted(run_dir)}"
            )
    step, last = step_of(checkpoint), after["trainer.max_steps"]
    # Only rank 0 knows the chosen checkpoint yet.
    if launcher.is_main_process() and "trainer.max_steps" in changed and 0 <= last <= step:
        raise ValueError(
            f"trainer.max_steps is {last}, but {short(run_dir)} is at step {step} already; give a larger number"
        )
    say("continuing with changed settings, which override the checkpoint's:")
    for key in changed:
        say(f"  {key}: {before.get(key)} -> {after.get(key)}")
    return [_KeepSettings(run_dir, text)] if launcher.is_main_process() else []


class _KeepSettings(Callback):
    """Saves changed settings as the run's own once the checkpoint was loaded with them, and keeps the earlier ones."""

    def __init__(self, run_dir: Path, text: str) -> None:
        self.run_dir, self.text = run_dir, text

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes both files."""
        path = self.run_dir / runs.CONFIG
        numbered = (self.run_dir / f"config.{number}.yaml" for number in count(1))
        earlier = next(name for name in numbered if not name.exists())
        # Keep the earlier settings first, so that a kill here leaves a resumable run.
        runs.write_text(earlier, path.read_text(encoding="utf-8"))
        runs.write_text(path, self.text)


def save_vocabulary(cli: RecipeCLI, run_dir: Path) -> None:
    """Prepares the data if necessary, and saves the vocabulary with the run.

    Raises:
        ValueError: if a resumed run's corpus now has another vocabulary.
    """
    if not launcher.is_main_process() or cli.datamodule is None:
        return
    cli.datamodule.prepare(progress=sys.stderr.isatty())
    saved, vocabulary = run_dir / runs.VOCABULARY, cli.datamodule.vocabulary
    if not saved.is_dir():
        runs.note(saved)
        vocabulary.save(saved)
        runs.seal(saved)
    elif load_vocabulary(saved).digest() != vocabulary.digest():
        raise ValueError(
            f"data has another vocabulary now than when {short(run_dir)} was begun; start a new run, or read the "
            f"data with the run's own: --data.vocabulary_dir {quoted(saved)}"
        )
