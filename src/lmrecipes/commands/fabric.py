"""`lmrecipes fabric fit|validate|test`: a recipe under Fabric instead of the Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from lmrecipes import runs, signals
from lmrecipes.callbacks import LeftBySignal, RunPlot, StepSeed, Watchdog
from lmrecipes.cli import RecipeCLI, open_recipe
from lmrecipes.commands.fit import checkpoint_to_resume, onward, save_settings, save_vocabulary
from lmrecipes.commands.say import say, short
from lmrecipes.fabric import Loop, started_by_fabric_run
from lmrecipes.loggers import RunCSVLogger
from lmrecipes.requeueing import requeue

_COMMANDS = ("fit", "validate", "test")
# Of the recipe's callbacks those that the loop stands for itself, and those that only the Trainer can have.
_LOOPS_OWN = (ModelCheckpoint, RunPlot)
_TRAINERS_OWN = (EarlyStopping, Watchdog)
_STRATEGIES = ("auto", "ddp")


class FabricCLI(RecipeCLI):
    """The recipe's parts without a Trainer."""

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """None: its settings are enough."""


def run(argv: list[str]) -> int:
    """Trains or evaluates; returns 128 and its number if stopped by a signal."""
    if not argv or argv[0] not in _COMMANDS:
        given = argv[0] if argv else "nothing"
        raise ValueError(f"lmrecipes fabric got {given}; it takes one of {', '.join(_COMMANDS)}, and a recipe")
    command = argv[0]
    if command == "fit":
        signals.watch()
    cli = open_recipe(command, argv[1:], FabricCLI)
    loop = _loop(cli)
    return _fit(cli, loop) if command == "fit" else _measure(cli, loop, command)


def _loop(cli: RecipeCLI) -> Loop:
    """The loop with the devices, the callbacks and the log that the recipe asks for."""
    settings = cli.config_init.trainer
    strategy = settings.strategy
    if strategy not in _STRATEGIES:
        raise ValueError(f"trainer.strategy is {strategy}; under Fabric {' and '.join(_STRATEGIES)} work")
    where: dict[str, Any] = {}
    if not started_by_fabric_run():
        where = {"accelerator": settings.accelerator, "devices": settings.devices, "num_nodes": settings.num_nodes}
        where |= {"strategy": strategy, "precision": settings.precision}
    fitting = cli.command == "fit"
    callbacks: list[Any] = [StepSeed(int(cli.config.seed_everything))] if fitting else []
    if fitting:
        given = settings.callbacks or []
        callbacks += [c for c in given if not isinstance(c, _LOOPS_OWN + _TRAINERS_OWN)]
        if left_out := [type(c).__name__ for c in given if isinstance(c, _TRAINERS_OWN)]:
            say(f"not under Fabric: {', '.join(left_out)}")
    loggers = [RunCSVLogger(cli.run_dir)] if fitting and cli.run_dir is not None else []
    run_dir = cli.run_dir if fitting else None
    loop = Loop(cli.datamodule, settings, 1, run_dir, callbacks=callbacks, loggers=loggers, **where)
    loop.accumulate_grad_batches = cli.config_init.batch.accumulation(loop.world_size)
    if not started_by_fabric_run():
        loop.launch()
    return loop


def _fit(cli: RecipeCLI, loop: Loop) -> int:
    assert cli.run_dir is not None
    checkpoint = None
    if cli.resumed:
        checkpoint = checkpoint_to_resume(cli.run_dir)
    elif runs.is_main_process():
        save_settings(cli, cli.run_dir)
    say(f"run directory: {short(cli.run_dir)}")
    save_vocabulary(cli, cli.run_dir)
    weights = cli.weights_from() if cli.config.init_from else None
    loop.fit(cli.model, checkpoint, weights, cli.config.init_optimizer)
    if loop.stopped_by:
        return _leave(cli, loop, cli.run_dir)
    say(f"done at step {loop.global_step}; test it with: lmrecipes fabric test --run {short(cli.run_dir)}")
    return 0


def _leave(cli: RecipeCLI, loop: Loop, run_dir: Path) -> int:
    """Requeues a SLURM job from the first rank, when all have saved, and says how the run goes on."""
    signals.ignore()
    refusal: str | None = ""
    if signals.in_slurm_job() and loop.is_global_zero:
        refusal = "its checkpoint could not be written"
        if loop.saved is not None:
            refusal = requeue(run_dir, loop.global_step, cli.config.max_requeues)
    # None leaves before that is done: SLURM would end the others.
    left = LeftBySignal(loop.stopped_by, loop.saved, loop.broadcast(refusal))
    say(onward(left, loop.global_step, f"lmrecipes fabric fit --resume {short(run_dir)}"))
    return int(left.code or 0)


def _measure(cli: RecipeCLI, loop: Loop, command: str) -> int:
    checkpoint: Path = cli.checkpoint()
    split = {"validate": "val"}.get(command, command)
    figures = loop.measure(cli.model, checkpoint, split)
    for name, value in sorted(figures.items()):
        say(f"{name:<26}{value:.4f}")
    if cli.run_dir is not None and runs.is_main_process():
        runs.add_result(
            cli.run_dir, {"command": f"fabric {command}", "metrics": figures, "checkpoint": short(checkpoint)}
        )
    return 0
