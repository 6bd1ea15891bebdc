"""`lmrecipes fit`: trains a recipe, or resumes a run."""

from __future__ import annotations

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser

from lmrecipes import runs
from lmrecipes.callbacks import LastCheckpoint, LeftBySignal, StoppedByLossGuard
from lmrecipes.callbacks.loss_guard import is_finite
from lmrecipes.checkpoints.io import newest_readable
from lmrecipes.checkpoints.weights import naming_mismatches
from lmrecipes.cli import Command, RecipeCLI, open_recipe
from lmrecipes.commands.common.end_run import UNSAVED, exit_code, onward, stop, unsaved
from lmrecipes.commands.common.start_run import begin, save_vocabulary
from lmrecipes.resilience import signals
from lmrecipes.runtime.console import quoted, say, short


def _add_options(parser: LightningArgumentParser) -> None:
    parser.add_argument("--resume", type=str, help="Run to continue, with its own configuration.")
    parser.add_argument("--init_from", type=str, help="Checkpoint or run to initialize the weights from.")
    parser.add_argument(
        "--init_optimizer", type=bool, default=False, help="With --init_from: load the optimizer state too."
    )
    parser.add_argument("--run_dir", type=str, help="Directory of the new run, a new or an empty one.")
    parser.add_argument(
        "--max_requeues", type=int, default=100, help="Maximum number of times that a SLURM job requeues itself."
    )


COMMAND = Command(
    name="fit",
    description=__doc__,
    add_options=_add_options,
    trains=True,
    run_option="--resume",
)


def run(argv: list[str]) -> int:
    """Trains; returns 130 after Ctrl-C, 128 + the signal's number if stopped by a signal."""
    try:
        return _fit(open_recipe(COMMAND, argv))
    finally:
        runs.end()


def _fit(cli: RecipeCLI) -> int:
    assert cli.run_dir is not None
    resume = f"lmrecipes fit --resume {quoted(cli.run_dir)}"
    try:
        checkpoint, keeping = begin(cli, cli.run_dir)
        cli.trainer.callbacks += keeping  # type: ignore[attr-defined]
        save_vocabulary(cli, cli.run_dir)
        with naming_mismatches(cli.model, checkpoint, f"--resume {quoted(checkpoint)}" if checkpoint else ""):
            cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint)
    except (ValueError, OSError, MisconfigurationException):
        runs.discard_if_unused()
        raise
    except LeftBySignal as left:
        signals.ignore()
        say(onward(left, cli.trainer.global_step, resume))
        return exit_code(cli.trainer, int(left.code or 0))
    except StoppedByLossGuard as stopped:
        stop(cli, stopped, resume)
        return exit_code(cli.trainer, 3)
    except SystemExit as leaving:
        # Lightning exits with 1 after Ctrl-C; a signal before training has its own code.
        if not cli.trainer.interrupted or leaving.code != 1:
            raise
    signals.ignore()
    if cli.trainer.fast_dev_run:  # type: ignore[attr-defined]
        runs.discard_if_unused()
        steps = cli.trainer.global_step
        say(f"trainer.fast_dev_run: {steps} step{'' if steps == 1 else 's'} and a validation ran; nothing was saved")
        return 0
    if cli.trainer.interrupted:
        kept = newest_readable(cli.run_dir / "checkpoints")
        then = f"continue from {kept.stem} with: {resume}" if kept else "no checkpoint was saved yet"
        say(f"interrupted at step {cli.trainer.global_step}; {then}")
        return 130
    last = next((c for c in cli.trainer.callbacks if isinstance(c, LastCheckpoint)), None)  # type: ignore[attr-defined]
    if last is not None and not last.is_saved(cli.trainer) and is_finite(cli.trainer.callbacks):  # type: ignore[attr-defined]
        say(unsaved(cli.run_dir, cli.trainer.global_step, resume))
        return exit_code(cli.trainer, UNSAVED)
    speed = cli.trainer.callback_metrics.get("throughput/tokens_per_s")
    if speed is not None:
        say(f"training ran at {float(speed):,.0f} tokens/s")
    if (plot := cli.run_dir / "plots" / "run.png").is_file():
        say(f"curves: {short(plot)}")
    if not any((cli.run_dir / "checkpoints").glob("*.ckpt")):
        say(f"done at step {cli.trainer.global_step}; no checkpoint was kept, as trainer.callbacks says")
        return 0
    say(f"done at step {cli.trainer.global_step}; test it with: lmrecipes test --run {quoted(cli.run_dir)}")
    return 0
