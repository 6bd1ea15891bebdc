"""LightningCLI for recipes: configuration groups, run directories, and one line per error."""

from __future__ import annotations

import atexit
import os
import textwrap
from argparse import Action
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch.distributed as dist
import yaml
from jsonargparse import ArgumentError, Namespace, get_loader, set_loader
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from lmrecipes import runs
from lmrecipes.batches import BatchPlan
from lmrecipes.callbacks import (
    CheckMonitors,
    FailFast,
    InitWeights,
    KeepOptimizerSettings,
    PortableOptimizerState,
    Requeue,
    ResumeLog,
    StepSeed,
    console_progress,
    set_group_timeout,
    take_signals_from,
)
from lmrecipes.callbacks.check_distinct import check_distinct
from lmrecipes.checkpoints.io import AtomicCheckpointIO
from lmrecipes.config import published
from lmrecipes.config.arguments import class_of, config_files, expand_names, given_options, value_of, without_none
from lmrecipes.config.errors import ConfigError, condense, known_options, misspelt_beside, unknown_key
from lmrecipes.config.hardware import check_hardware
from lmrecipes.config.moved import with_current_paths
from lmrecipes.config.presets import as_list, with_lists_flattened
from lmrecipes.config.recipe_files import (
    as_written,
    check_groups,
    check_named_files,
    without_empty_files,
    written_groups,
)
from lmrecipes.config.trainer_flags import check_flags, check_seed
from lmrecipes.config.validation import minutes
from lmrecipes.config.values import check_values
from lmrecipes.data import load_vocabulary
from lmrecipes.datamodules.limits import overfit, run_whole_steps, score_something
from lmrecipes.datamodules.protocols import EvaluatesWith
from lmrecipes.loggers import RunCSVLogger, RunLogger
from lmrecipes.models.common.protocols import ChecksPrecision, ReadsBatchPlan, TypesBatches
from lmrecipes.runs.checkpoint_choice import checkpoint_of, is_checkpoint
from lmrecipes.runs.inherited import check_source_model, inherit_base, inherit_vocabulary, init_checkpoint
from lmrecipes.runtime import launcher
from lmrecipes.runtime.allocator import tune_process
from lmrecipes.runtime.warning_filters import quiet
from lmrecipes.strategies.checks import check_strategy, data_parallel_size

_MISSING = " is missing"
# Some defaults of Lightning's callbacks are enum members, which YAML cannot represent: write their values.
yaml.SafeDumper.add_multi_representer(Enum, lambda dumper, name: dumper.represent_data(name.value))


def _load(text: str) -> Any:
    if text.startswith("#") and "\n" not in text:
        # The value of an option, such as --data.path '#4', which YAML would read as a comment, that is as nothing.
        return text
    return with_lists_flattened(as_written(with_current_paths(get_loader("yaml")(text))))


set_loader("recipe", _load, exceptions=(yaml.YAMLError,))


@dataclass(frozen=True, kw_only=True)
class Command:
    """What a command needs from a recipe."""

    name: str
    description: str | None = None
    """The docstring of its module, "`lmrecipes NAME`: what it does", for --help."""
    add_options: Callable[[LightningArgumentParser], None] = lambda parser: None
    """Adds options of this invocation only, which are not part of a run's configuration."""
    builds: frozenset[str] = frozenset(("trainer", "model", "data"))
    """Which groups of the recipe are built."""
    uses_devices: bool = True
    """Whether the machine must have the devices of `trainer:`."""
    trains: bool = False
    """Whether it starts or resumes a run, rather than using one."""
    split: str | None = None
    """Which split it evaluates with the run's own vocabulary."""
    run_option: str = "--run"
    """Which option names an existing run; empty for a command that takes none."""


class RecipeParser(LightningArgumentParser):
    """Raises errors instead of printing them below the usage."""

    def parse_args(self, args: Any = None, *others: Any, **how: Any) -> Any:
        """Parses a command line, or one option of a class within it."""
        if "defaults" in how and args is not None:
            # jsonargparse writes the parsed value of such an option into a word again, as Python does.
            parts = [word.partition("=") for word in args]
            args = [f"{option}{equals}{without_none(value)}" for option, equals, value in parts]
        return super().parse_args(args, *others, **how)

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Raises the message."""
        raise ArgumentError(None, message) from ex


class RecipeCLI(LightningCLI):
    """LightningCLI for recipes: a flat configuration, one run directory, and always our logger and callbacks."""

    def __init__(self, command: Command, argv: Sequence[str]) -> None:
        self.command = command
        self.argv = list(argv)
        self.run_dir: Path | None = None
        self.resumed = False
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            run=False,
            args=self.argv,
            save_config_callback=None,
            seed_everything_default=1111,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_class=RecipeParser,
            parser_kwargs={
                "prog": f"lmrecipes {command.name}",
                "description": (command.description or "").partition(": ")[2],
                "allow_abbrev": False,
                "parser_mode": "recipe",
            },
            trainer_defaults={
                "enable_model_summary": False,
                # Our loaders shard the data over ranks themselves.
                "use_distributed_sampler": False,
                "log_every_n_steps": 10,
                # `val_check_interval` counts steps of the whole training, not of an epoch.
                "check_val_every_n_epoch": None,
            },
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the groups shared by data and model, the published targets, and the options of this invocation."""
        parser.add_class_arguments(BatchPlan, "batch")
        parser.link_arguments("batch", "data.init_args.batch")
        parser.link_arguments("batch", "model.init_args.batch")
        parser.add_argument("--published", type=list[published.Target], default=[], help="Published results.")
        before = {action.dest for action in parser._actions}
        parser.add_argument("--runs_root", type=str, default="runs", help="Folder of all runs.")
        parser.add_argument(
            "--no_runtime_tuning", action="store_true", help="Do not tune the process's memory allocator."
        )
        if self.command.uses_devices:
            parser.add_argument(
                "--group_timeout_minutes",
                type=float,
                default=40.0,
                help="Timeout of collectives, in minutes.",
            )
        shared = len(parser._actions)
        self.command.add_options(parser)
        parser.usage = _usage(self.command, parser._actions[shared:])
        # These are no part of a run's saved configuration.
        self.steering = {action.dest for action in parser._actions} - before

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses the command line; any error becomes one line."""
        files = config_files(self.argv)
        check_named_files(self.argv)
        check_groups(files, {option.split(".")[0] for option in given_options(self.argv)})
        fixed = {action.dest for action in parser._actions} | {"config", "print_config"}
        try:
            self.config = parser.parse_args(self.argv)
        except ArgumentError as error:
            groups = written_groups(files, self.argv)
            message = condense(str(error), known_options(groups) | fixed)
            if message.endswith(_MISSING):
                message = misspelt_beside(message.removesuffix(_MISSING), groups, fixed) or message
            raise ConfigError(message) from None
        check_values(self.config.as_dict(), {"trainer": Trainer, "batch": BatchPlan})
        check_seed(self.config.seed_everything)
        # argparse accepts abbreviated option names inside a class; reject them.
        options = known_options(self.config.as_dict()) | fixed
        for option in given_options(self.argv):
            if option not in options and not option.endswith("help"):
                raise ConfigError(unknown_key(option, options))

    def before_instantiate_classes(self) -> None:
        """Checks the hardware, and finds or creates the run directory."""
        config, root = self.config, Path(self.config.runs_root)
        if self.command.uses_devices:
            requested = config.trainer
            # Report a precision that the model never supports before one that this machine lacks.
            if "model" in config and isinstance(model := class_of(config.model.class_path), ChecksPrecision):
                model.check_precision(str(requested.precision))
            check_flags(requested)
            minutes("--group_timeout_minutes", config.group_timeout_minutes)
            check_hardware(requested.accelerator, requested.devices, requested.precision, requested.strategy)
        if self.command.trains:
            self._begin_or_continue(config, root)
        else:
            if "trainer" in config:
                # Evaluation logs nothing, so it must not require a logger's packages.
                config.trainer.logger = False
            if run := config.get("run"):
                self._use_run(run, root)
        inherit_vocabulary(config, self.run_dir, resumed=self.resumed)
        inherit_base(config)

    def _begin_or_continue(self, config: Namespace, root: Path) -> None:
        """Creates the directory of a new run, or finds that of the run to resume."""
        if config.init_optimizer and not config.init_from:
            raise ConfigError("--init_optimizer needs a run to take the optimizer's state from: --init_from RUN")
        if config.resume is None:
            if config.run_dir == "":
                raise ConfigError("--run_dir is empty; name a directory, or leave it out")
            run_dir = Path(config.run_dir) if config.run_dir else None
            self.run_dir = runs.new_run_dir(runs.recipe_of(config_files(self.argv)), root=root, requested=run_dir)
            check_source_model(config)
        else:
            for other in ("init_from", "run_dir"):
                if config.get(other):
                    raise ConfigError(
                        f"--resume and --{other} are mutually exclusive: --resume continues a run in its own "
                        f"directory, from its own checkpoint"
                    )
            if config.trainer.fast_dev_run:
                raise ConfigError("trainer.fast_dev_run tries a new run and saves nothing; leave out --resume")
            self._use_run(config.resume, root)
            assert self.run_dir is not None
            runs.continue_run(self.run_dir)
            self.resumed = True

    def _use_run(self, run: str, root: Path) -> None:
        self.run_dir = runs.find_run(run, root=root)
        os.environ[launcher.RUN_DIR_VARIABLE] = str(self.run_dir)

    def _keep_vocabulary(self) -> None:
        """Makes an evaluation use the vocabulary that the run was trained with, even if the text has changed."""
        split = self.command.split
        saved = None if self.run_dir is None else self.run_dir / runs.VOCABULARY
        if split is None or saved is None or not saved.is_dir() or not isinstance(self.datamodule, EvaluatesWith):
            return
        if "data.vocabulary_dir" not in given_options(self.argv):
            self.datamodule.evaluate_with(load_vocabulary(saved), split)

    def instantiate_classes(self) -> None:
        """Builds the parts of the recipe that the command needs."""
        try:
            if "trainer" in self.command.builds:
                super().instantiate_classes()
                self._keep_vocabulary()
                return
            settings = Namespace({part: self.config[part] for part in (*sorted(self.command.builds), "batch")})
            built = self.parser.instantiate_classes(settings)
            self.model, self.datamodule = built.get("model"), built.get("data")
            if self.datamodule is not None:
                self._check_batch(built.batch)
        except (ArgumentError, ValueError) as error:
            raise ConfigError(condense(str(error))) from error

    def _check_batch(self, plan: BatchPlan) -> None:
        """Refuses data with another type of batch than the model's, and fields of `batch:` that neither of them reads.

        A model that the command does not build is judged by its class. Parts that declare nothing are not checked.
        """
        model = self.model or class_of(self.config.model.class_path)
        parts = {getattr(part, "__name__", type(part).__name__): part for part in (model, self.datamodule)}
        types = {name: part.batch_type for name, part in parts.items() if isinstance(part, TypesBatches)}
        if len(set(types.values())) == 2:
            (reads, wanted), (gives, given) = types.items()
            raise ConfigError(
                f"data is {gives}, whose batches are of type {given.__name__}, but {reads} reads {wanted.__name__}; "
                f"name the data of a recipe of this model, see `lmrecipes list`"
            )
        fields = {name: part.batch_fields for name, part in parts.items() if isinstance(part, ReadsBatchPlan)}
        if len(fields) == 2:
            plan.check_read(fields)

    def another_model(self) -> Any:
        """A second instance of the recipe's model, without a network."""
        settings = Namespace({part: self.config[part] for part in ("model", "batch")})
        return self.parser.instantiate_classes(settings).model

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Adds the run directory, our loggers and callbacks, and the accumulation of the batch plan.

        Raises:
            ValueError: if the batch does not divide over devices and micro-batches.
        """
        settings = self.config_init.trainer
        training = self.command.trains
        self._check_batch(self.config_init.batch)
        kwargs["logger"] = self.run_loggers() if training and settings.logger is not False else False
        kwargs["plugins"] = [*as_list(settings.plugins), AtomicCheckpointIO()]
        kwargs["default_root_dir"] = self.run_dir or Path.cwd()
        callbacks = as_list(settings.callbacks)
        check_distinct(callbacks)
        if settings.enable_checkpointing is False:
            callbacks = [callback for callback in callbacks if not isinstance(callback, Checkpoint)]
        kwargs["callbacks"] = [FailFast(), CheckMonitors(), *callbacks, *self._own_callbacks()]
        if settings.check_val_every_n_epoch is None and isinstance(settings.val_check_interval, float):
            # A fraction of an epoch.
            kwargs["check_val_every_n_epoch"] = 1
        kwargs |= overfit(self.datamodule, int(settings.overfit_batches))
        trainer = super().instantiate_trainer(**kwargs)
        launcher.check_rank(trainer.global_rank, trainer.world_size)
        set_group_timeout(trainer, self.config.group_timeout_minutes)
        optimizer = self.config.model.init_args.get("optimizer") or {}
        check_strategy(trainer, self.model, optimizer.get("class_path", ""))
        accumulation = self.config_init.batch.accumulation(data_parallel_size(trainer))
        if trainer.accumulate_grad_batches not in (1, accumulation):
            raise ConfigError(
                f"trainer.accumulate_grad_batches is {trainer.accumulate_grad_batches}, but the batch plan needs "
                f"{accumulation} micro-batches; leave it out and set batch.micro_batch_size"
            )
        trainer.accumulate_grad_batches = accumulation
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            run_whole_steps(trainer, int(settings.fast_dev_run))
        self.score_something(trainer)
        if isinstance(trainer.val_check_interval, int):
            # Recipes count optimizer steps; Lightning counts micro-batches.
            trainer.val_check_interval *= accumulation
        if training:
            # After the checkpoint callbacks, which Lightning moves to the end, so that their state is saved too.
            trainer.callbacks.append(Requeue(self.config.max_requeues))  # type: ignore[attr-defined]
            take_signals_from(trainer)
        return trainer

    def score_something(self, settings: Any) -> None:
        """See `datamodules.limits`; of a Trainer, or of the `trainer:` group."""
        given = self.config_init.trainer
        quiet = bool(given.fast_dev_run or given.overfit_batches)
        score_something(self.datamodule, settings, self.command.split or "val", quiet=quiet)

    def run_loggers(self) -> list[Any]:
        """The CSV logger and the recipe's loggers, bound to the run directory."""
        assert self.run_dir is not None
        loggers = [x for x in as_list(self.config_init.trainer.logger) if not isinstance(x, bool)]
        for logger in loggers:
            if isinstance(logger, RunLogger):
                logger.begin(self.run_dir, self.settings())
        return [RunCSVLogger(self.run_dir), *loggers]

    def _own_callbacks(self) -> list[Any]:
        callbacks: list[Any] = [console_progress()] if self.config_init.trainer.enable_progress_bar is not False else []
        if self.command.trains:
            callbacks += [StepSeed(int(self.config.seed_everything)), KeepOptimizerSettings(), PortableOptimizerState()]
            callbacks.append(ResumeLog())
            if self.config.init_from:
                callbacks.append(InitWeights(init_checkpoint(self.config), self.config.init_optimizer))
        return callbacks

    def checkpoint(self) -> Path:
        """The checkpoint that --checkpoint names.

        Raises:
            ValueError: if there is none, naming what works.
        """
        requested = self.config.checkpoint
        if requested in ("best", "last"):
            if self.run_dir is None:
                raise ConfigError("give --run RUN, or --checkpoint PATH with a recipe")
            return checkpoint_of(self.run_dir, requested)
        if not is_checkpoint(Path(requested)):
            raise ConfigError(f"--checkpoint {requested} is not a checkpoint; give best, last, or the path of one")
        return Path(requested)

    def settings(self) -> str:
        """The full configuration as YAML, which `--config` accepts."""
        config = self.config.clone()
        for key in self.steering:
            config.pop(key, None)
        return self.parser.dump(config, skip_link_targets=True, skip_validation=True, skip_none=False)


def _usage(command: Command, options: Sequence[Action]) -> str:
    """The command's own options alone: those of the trainer fill pages."""
    source = f"(--config RECIPE | {command.run_option} RUN)" if command.run_option else "--config RECIPE"
    names = [option.option_strings[0] for option in options]
    own = [f"[{name} {name.lstrip('-').upper()}]" for name in names if name != command.run_option]
    words = " ".join(["lmrecipes", command.name, source, *own, "[--GROUP.KEY VALUE]..."])
    return textwrap.fill(words, width=80, subsequent_indent="    ", break_on_hyphens=False)


def _leave_group() -> None:
    """Destroys the process group, whose threads may otherwise outlive the interpreter and abort."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def open_recipe(command: Command, argv: Sequence[str], cli_class: type[RecipeCLI] = RecipeCLI) -> RecipeCLI:
    """Parses the command line of a command and builds what it needs.

    Raises:
        ValueError: for bad input, in one line.
    """
    runs.forget()
    launcher.train_as_on_a_laptop()
    quiet()
    atexit.register(_leave_group)
    if "--no_runtime_tuning" not in argv:
        tune_process()
    words = without_empty_files(expand_names(argv))
    source = value_of(words, command.run_option) if command.run_option else None
    if source is not None:
        run = runs.find_run(source, root=Path(value_of(words, "--runs_root") or "runs"))
        if not config_files(words):
            words = ["--config", str(run / runs.CONFIG), *words]
    elif not config_files(words) and not {"--help", "-h"} & set(words):
        or_run = f", or {command.run_option} RUN" if command.run_option else ""
        raise ConfigError(f"name a recipe: --config RECIPE{or_run}; see `lmrecipes list`")
    cli = None
    try:
        cli = cli_class(command, words)
    finally:
        if cli is None and command.trains:
            runs.discard_if_unused()
    return cli
