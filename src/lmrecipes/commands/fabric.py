"""`lmrecipes fabric fit|validate|test`: a recipe under Fabric instead of the Trainer."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping

from lmrecipes import runs
from lmrecipes.callbacks import FailFast, KeepOptimizerSettings, LeftBySignal, StepSeed, StoppedByLossGuard
from lmrecipes.callbacks.check_distinct import check_distinct
from lmrecipes.checkpoints.weights import naming_mismatches
from lmrecipes.cli import RecipeCLI, open_recipe
from lmrecipes.commands import fit, test, validate
from lmrecipes.commands.common.end_run import UNSAVED, exit_code, onward, stop, unsaved
from lmrecipes.commands.common.load_model import use_exported
from lmrecipes.commands.common.report import check_evaluation, report
from lmrecipes.commands.common.start_run import begin, save_vocabulary
from lmrecipes.config.presets import as_list
from lmrecipes.fabric.loop import HOOKS, Loop, started_by_fabric_run
from lmrecipes.resilience import signals
from lmrecipes.resilience.requeue import requeue
from lmrecipes.runs.inherited import init_checkpoint
from lmrecipes.runtime import launcher
from lmrecipes.runtime.console import quoted, say

_COMMANDS = {"fit": fit.COMMAND, "validate": validate.COMMAND, "test": test.COMMAND}
_STRATEGIES = ("auto", "ddp")
# Trainer settings that the loop honours, or that do not concern it.
_KNOWN = {
    *("accelerator", "strategy", "devices", "num_nodes", "precision", "logger", "callbacks", "max_steps"),
    *("log_every_n_steps", "val_check_interval", "limit_val_batches", "limit_test_batches", "gradient_clip_val"),
    *("gradient_clip_algorithm", "check_val_every_n_epoch", "num_sanity_val_steps", "enable_checkpointing"),
    *("enable_progress_bar", "enable_model_summary", "use_distributed_sampler", "default_root_dir"),
}


_USAGE = """usage: lmrecipes fabric {fit,validate,test} --config RECIPE [options]

Runs a recipe in a training loop on Lightning Fabric instead of the Trainer, with the options of the same command
without `fabric`; `lmrecipes fabric fit --help` shows them."""


class FabricCLI(RecipeCLI):
    """The recipe's parts without a Trainer."""

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """None: its settings are enough."""
        self.score_something(self.config_init.trainer)


def run(argv: list[str]) -> int:
    """Trains or evaluates; returns 128 + the signal's number if stopped by a signal."""
    if argv and argv[0] in ("-h", "--help"):
        print(_USAGE)
        return 0
    if not argv or argv[0] not in _COMMANDS:
        given = argv[0] if argv else "nothing"
        raise ValueError(f"lmrecipes fabric got {given}; it takes one of {', '.join(_COMMANDS)}, and a recipe")
    command = _COMMANDS[argv[0]]
    cli = open_recipe(command, argv[1:], FabricCLI)
    try:
        _check(cli)
        return _fit(cli) if command.trains else _evaluate(cli)
    except (ValueError, OSError):
        if command.trains:
            runs.discard_if_unused()
        raise
    finally:
        runs.end()


def _check(cli: RecipeCLI) -> None:
    """Refuses settings that only the Trainer supports.

    Raises:
        ValueError: naming the setting.
    """
    settings, usual = cli.config.trainer, cli.parser.get_defaults().trainer
    if settings.strategy not in _STRATEGIES:
        name = settings.strategy if isinstance(settings.strategy, str) else settings.strategy.class_path
        raise ValueError(f"trainer.strategy is {name}; under Fabric {' and '.join(_STRATEGIES)} work")
    for name in sorted(vars(settings).keys() - _KNOWN):
        if settings[name] != usual[name]:
            raise ValueError(
                f"trainer.{name} is {settings[name]}, which the Fabric loop does not support; leave it out"
            )
    if cli.command.trains and settings.max_steps < 1:
        raise ValueError(f"trainer.max_steps is {settings.max_steps}; under Fabric it must be 1 or more")
    if cli.command.trains and settings.limit_val_batches != 0 and not isinstance(settings.val_check_interval, int):
        raise ValueError(
            f"trainer.val_check_interval is {settings.val_check_interval}; under Fabric it must be a number of steps"
        )
    for name in ("limit_val_batches", "limit_test_batches"):
        if isinstance(settings[name], float) and settings[name] != 1.0:
            raise ValueError(f"trainer.{name} is {settings[name]}; under Fabric it must be a number of batches")


def _loop(cli: RecipeCLI, more: list[Any]) -> Loop:
    """The loop with the recipe's devices, callbacks and loggers."""
    settings = cli.config_init.trainer
    where: dict[str, Any] = {"precision": settings.precision}
    if not started_by_fabric_run():
        where |= {"accelerator": settings.accelerator, "devices": settings.devices, "num_nodes": settings.num_nodes}
        where["strategy"] = settings.strategy
    callbacks = as_list(settings.callbacks)
    check_distinct(callbacks)
    if cli.command.trains:
        where["loggers"] = cli.run_loggers() if settings.logger is not False else []
        if left_out := [type(c).__name__ for c in callbacks if _needs_the_trainer(c)] + _never_called(callbacks):
            say(f"not under Fabric: {', '.join(left_out)}")
        callbacks = [StepSeed(int(cli.config.seed_everything)), KeepOptimizerSettings(), *callbacks]
    callbacks = [FailFast(), *(c for c in callbacks if not _needs_the_trainer(c)), *more]
    run_dir = cli.run_dir if cli.command.trains else None
    loop = Loop(cli.datamodule, settings, callbacks, run_dir, **where)
    launcher.check_rank(loop.global_rank, loop.world_size)
    loop.default_root_dir = cli.run_dir or Path.cwd()
    loop.accumulate_grad_batches = cli.config_init.batch.accumulation(loop.world_size)
    if not started_by_fabric_run():
        loop.launch()
    return loop


def _needs_the_trainer(callback: Callback) -> bool:
    """Whether a callback is Lightning's, or saves or stops like those; the loop handles ours of that kind itself."""
    if _is_ours(callback):
        return False
    of_lightning = type(callback).__module__.split(".")[0] in ("lightning", "pytorch_lightning")
    return of_lightning or isinstance(callback, Checkpoint | EarlyStopping)


def _is_ours(callback: Callback) -> bool:
    return type(callback).__module__.split(".")[0] == "lmrecipes"


def _never_called(callbacks: list[Callback]) -> list[str]:
    """Hooks of users' callbacks that the loop never calls."""
    return [
        f"{type(callback).__name__}.{hook}"
        for callback in callbacks
        if not _is_ours(callback) and not _needs_the_trainer(callback)
        for hook, usual in vars(Callback).items()
        if hook.startswith("on_") and hook not in HOOKS and getattr(type(callback), hook) is not usual
    ]


def _fit(cli: RecipeCLI) -> int:
    assert cli.run_dir is not None
    checkpoint, keeping = begin(cli, cli.run_dir)
    resume = f"lmrecipes fabric fit --resume {quoted(cli.run_dir)}"
    loop = _loop(cli, list(keeping))
    save_vocabulary(cli, cli.run_dir)
    weights = init_checkpoint(cli.config) if cli.config.init_from else None
    source = checkpoint or weights
    option = "--resume" if checkpoint else "--init_from"
    try:
        with naming_mismatches(cli.model, source, f"{option} {quoted(source)}" if source else ""):
            loop.fit(cli.model, checkpoint, weights, cli.config.init_optimizer)
    except StoppedByLossGuard as stopped:
        stop(cli, stopped, resume)
        return exit_code(loop, 3)
    signals.ignore()
    if loop.stopped_by:
        return _leave(cli, loop, cli.run_dir, resume)
    if loop.saved is None and loop.run_dir is not None:
        say(unsaved(cli.run_dir, loop.global_step, resume))
        return exit_code(loop, UNSAVED)
    say(f"done at step {loop.global_step}; test it with: lmrecipes fabric test --run {quoted(cli.run_dir)}")
    return 0


def _leave(cli: RecipeCLI, loop: Loop, run_dir: Path, resume: str) -> int:
    """Requeues a SLURM job on rank 0 after all ranks have saved, and prints how to continue."""
    refusal: str | None = ""
    if launcher.in_slurm_job() and loop.is_global_zero:
        refusal = "its checkpoint could not be written"
        if loop.saved is not None:
            refusal = requeue(run_dir, loop.global_step, cli.config.max_requeues)
    # All ranks wait for the requeue: SLURM ends the step when one exits.
    left = LeftBySignal(loop.stopped_by, loop.saved, loop.broadcast(refusal))
    say(onward(left, loop.global_step, resume))
    return exit_code(loop, int(left.code or 0))


def _evaluate(cli: RecipeCLI) -> int:
    check_evaluation(cli)
    split = cli.command.split
    assert split is not None
    checkpoint: Path | None = cli.checkpoint()
    if cli.config.exported is not None:
        use_exported(cli.model, cli.config.exported, split)
        checkpoint = None
    loop = _loop(cli, [])
    began = time.perf_counter()
    with naming_mismatches(cli.model, checkpoint, f"--checkpoint {quoted(checkpoint)}" if checkpoint else ""):
        metrics = loop.measure(cli.model, checkpoint, split)
    elapsed = time.perf_counter() - began
    metrics = {**metrics, f"{split}/tokens_per_s": loop.evaluated_tokens * loop.world_size / elapsed}
    report(cli, f"fabric {cli.command.name}", metrics, checkpoint, elapsed)
    return 0
