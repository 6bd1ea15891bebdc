"""The commands that need torch: LightningCLI over recipes, run directories, and one line per error."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml
from jsonargparse import ArgumentError, Namespace
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

import lmrecipes.datamodules
import lmrecipes.models.transformer_xl
import lmrecipes.optim  # noqa: F401  (classes named in recipes may be given without their module)
from lmrecipes import __version__, collection, published, runs
from lmrecipes.batches import BatchPlan
from lmrecipes.callbacks import ConsoleProgress, KeepOptimizerSettings, StepSeed, WeightsFrom
from lmrecipes.checkpoint_io import AtomicCheckpointIO, newest_readable
from lmrecipes.config_errors import ConfigError, condense, known_options, unknown_key
from lmrecipes.loggers import RunCSVLogger
from lmrecipes.quiet import quiet
from lmrecipes.runtime import tune_process

# Options of ours that steer one invocation and are no part of a run's configuration.
_STEERING = ("run", "checkpoint", "resume", "init_from", "run_dir", "runs_root", "no_runtime_tuning")


class RecipeParser(LightningArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
        """Raises what jsonargparse would print below its usage."""
        raise ArgumentError(None, message) from ex


class RecipeCLI(LightningCLI):
    """LightningCLI for recipes: a flat configuration, one run directory, our logger and callbacks always there."""

    def __init__(self, command: str, argv: Sequence[str]) -> None:
        self.command = command
        self.argv = list(argv)
        self.resumed: Path | None = None
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
                "prog": f"lmrecipes {command}",
                "description": "Keys of a recipe are given as --key.inner value.",
                "allow_abbrev": False,
            },
            trainer_defaults={
                "enable_model_summary": False,
                # Our loaders give each rank its own share.
                "use_distributed_sampler": False,
                "log_every_n_steps": 10,
            },
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the groups that data and model share, the published targets, and what steers the invocation."""
        parser.add_class_arguments(BatchPlan, "batch")
        parser.add_argument("--published", type=list[published.Target], default=[], help="Published results.")
        parser.link_arguments("batch", "data.init_args.batch")
        parser.link_arguments("batch", "model.init_args.batch")
        parser.add_argument("--runs_root", type=str, default="runs", help="Folder of all runs.")
        parser.add_argument(
            "--no_runtime_tuning", action="store_true", help="Leave memory allocator and threads as they are."
        )
        if self.command == "fit":
            parser.add_argument("--resume", type=str | None, help="Run to continue, with everything it was doing.")
            parser.add_argument("--init_from", type=str | None, help="Checkpoint or run to take only weights from.")
            parser.add_argument("--run_dir", type=str | None, help="Directory of the new run.")
        elif self.command in ("validate", "test"):
            parser.add_argument("--run", type=str | None, help="Run to evaluate, by directory or recipe name.")
            parser.add_argument("--checkpoint", type=str, default="best", help="best, last, or a file.")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses, turning whatever is wrong into one line."""
        files = _config_files(self.argv)
        written = _merged(files)
        _check_top_level(files, parser)
        try:
            self.config = parser.parse_args(self.argv)
        except ArgumentError as error:
            raise ConfigError(condense(str(error), known_options(written) | _static_options(parser))) from None
        valid = known_options(_plain(self.config)) | _static_options(parser)
        for option in _given_options(self.argv):
            if option not in valid:
                raise ConfigError(unknown_key(option, valid))

    def before_instantiate_classes(self) -> None:
        """Finds or makes the run directory."""
        config, root = self.config, Path(self.config.runs_root)
        self.run_dir: Path | None = None
        self.published = list(config.published)
        if self.command == "fit":
            if config.resume:
                self.resumed = self.run_dir = runs.find_run(config.resume, root=root)
                os.environ[runs.RUN_DIR_VARIABLE] = str(self.run_dir)
            else:
                recipe = runs.recipe_of(_config_files(self.argv))
                asked = Path(config.run_dir) if config.run_dir else None
                self.run_dir = runs.new_run_dir(recipe, root=root, asked=asked)
        elif self.command in ("validate", "test") and config.run:
            self.run_dir = runs.find_run(config.run, root=root)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Puts the trainer's files into the run directory and adds what every run has."""
        asked = self.config_init.trainer
        fitting = self.command == "fit"
        loggers = asked.logger if isinstance(asked.logger, list) else [asked.logger]
        extra = [logger for logger in loggers if not isinstance(logger, bool | None)]
        if asked.logger is False or not fitting:
            kwargs["logger"] = False
        else:
            assert self.run_dir is not None
            kwargs["logger"] = [RunCSVLogger(self.run_dir), *extra]
        plugins = asked.plugins if isinstance(asked.plugins, list) else [asked.plugins] if asked.plugins else []
        kwargs["plugins"] = [*plugins, AtomicCheckpointIO()]
        kwargs["default_root_dir"] = self.run_dir or Path.cwd()
        kwargs["callbacks"] = [*(asked.callbacks or []), *self._own_callbacks(fitting)]
        return super().instantiate_trainer(**kwargs)

    def _own_callbacks(self, fitting: bool) -> list[Any]:
        seed = self.config.seed_everything
        own: list[Any] = [ConsoleProgress()]
        if fitting:
            own += [StepSeed(int(seed)), KeepOptimizerSettings()]
            if self.config.init_from:
                own.append(WeightsFrom(_weights_file(self.config.init_from, Path(self.config.runs_root))))
        return own

    def resolved(self) -> str:
        """The whole configuration as YAML that `--config` takes again."""
        config = self.config.clone()
        for key in _STEERING:
            config.pop(key, None)
        return self.parser.dump(config, skip_link_targets=True, skip_validation=True)


def _plain(config: Any) -> Any:
    return config.as_dict() if isinstance(config, Namespace) else config


def _static_options(parser: LightningArgumentParser) -> set[str]:
    return {action.dest for action in parser._actions} | {"config"}


def _given_options(argv: Sequence[str]) -> list[str]:
    """Dotted names of the options on the command line, as known_options spells them."""
    names = (word[2:].split("=", 1)[0].removesuffix("+") for word in argv if word.startswith("--"))
    return [name.replace(".init_args.", ".").removesuffix(".class_path") for name in names if "help" not in name]


def _config_files(argv: Sequence[str]) -> list[Path]:
    files = []
    for index, word in enumerate(argv):
        if word in ("--config", "-c") and index + 1 < len(argv):
            files.append(Path(argv[index + 1]))
        elif word.startswith("--config="):
            files.append(Path(word.removeprefix("--config=")))
    return files


def _merged(files: Sequence[Path]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for path in files:
        merged.update(collection.read_yaml(path) or {})
    return merged


def _check_top_level(files: Sequence[Path], parser: LightningArgumentParser) -> None:
    """Refuses unknown groups by name, before what they leave missing is complained about.

    Raises:
        ConfigError: naming the file and the nearest group.
    """
    groups = {"seed_everything", "trainer", "model", "data", "batch", "published"}
    for path in files:
        content = collection.read_yaml(path)
        if not isinstance(content, dict):
            raise ConfigError(f"{path} is no recipe: it holds {type(content).__name__}, not keys and values")
        for key in content:
            if key == "config":
                raise ConfigError(f"{path}: a recipe cannot include another by `config:`; give a second --config")
            if key not in groups:
                raise ConfigError(f"{path}: {unknown_key(str(key), groups)}")


def _expand_names(argv: Sequence[str]) -> list[str]:
    """Replaces names of shipped recipes and presets by their paths."""

    def expand(option: str, value: str) -> str:
        if option in ("--config", "-c"):
            return str(collection.find_recipe(value))
        if option == "--data" and (value.endswith(".yaml") or value in collection.preset_paths("datamodules")):
            return str(collection.find_preset(value, "datamodules"))
        if option in ("--trainer.callbacks", "--trainer.callbacks+") and value.endswith(".yaml"):
            return str(collection.find_preset(value, "callbacks"))
        return value

    expanded: list[str] = []
    words = iter(argv)
    for word in words:
        option, equals, value = word.partition("=")
        if option.startswith("-") and equals:
            expanded.append(f"{option}={expand(option, value)}")
        elif option in ("--config", "-c", "--data", "--trainer.callbacks", "--trainer.callbacks+"):
            following = next(words, None)
            expanded += [option] if following is None else [option, expand(option, following)]
        else:
            expanded.append(word)
    return expanded


def _value_of(argv: Sequence[str], option: str, default: str | None = None) -> str | None:
    for index, word in enumerate(argv):
        if word == option and index + 1 < len(argv):
            return argv[index + 1]
        if word.startswith(f"{option}="):
            return word.removeprefix(f"{option}=")
    return default


def _open(command: str, argv: list[str]) -> RecipeCLI:
    """Parses the command line of one command and builds what it names.

    Raises:
        ValueError: for whatever cannot be used, in one line.
    """
    quiet()
    if "--no_runtime_tuning" not in argv:
        tune_process()
    words = _expand_names(argv)
    source = _value_of(words, "--resume") if command == "fit" else _value_of(words, "--run")
    if source is not None:
        run = runs.find_run(source, root=Path(_value_of(words, "--runs_root", "runs") or "runs"))
        if command != "fit" or not _config_files(words):
            words = ["--config", str(run / runs.CONFIG), *words]
    elif not _config_files(words) and not {"--help", "-h"} & set(words):
        other = "--resume RUN" if command == "fit" else "--run RUN" if command != "prepare" else ""
        raise ConfigError("name a recipe: --config RECIPE" + (f", or {other}" if other else "") + "; see `lmrecipes list`")
    return RecipeCLI(command, words)


def fit(argv: list[str]) -> int:
    """Trains a recipe, or continues a run."""
    cli = _open("fit", argv)
    assert cli.run_dir is not None
    checkpoint = None
    if cli.resumed is not None:
        checkpoint = newest_readable(cli.run_dir / "checkpoints")
        if checkpoint is None:
            raise ValueError(f"run {cli.run_dir} has no readable checkpoint to resume from")
    if runs.is_main_process():
        _write_config(cli)
    _say(f"run directory: {_short(cli.run_dir)}")
    try:
        cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint)
    except (ValueError, OSError):
        if not any((cli.run_dir / "checkpoints").glob("*.ckpt")) and cli.resumed is None:
            _discard(cli.run_dir)
        raise
    if cli.trainer.interrupted:
        _say(f"interrupted at step {cli.trainer.global_step}; continue with: lmrecipes fit --resume {_short(cli.run_dir)}")
        return 130
    _say(f"done: step {cli.trainer.global_step}; test it with: lmrecipes test --run {_short(cli.run_dir)}")
    return 0


def _discard(run_dir: Path) -> None:
    """Removes a run that failed before its first step, if nothing but its own settings is in it."""
    import shutil

    if runs.is_main_process() and {path.name for path in run_dir.iterdir()} <= {
        runs.CONFIG,
        "run.json",
        "metrics.csv",
        runs.VOCABULARY,
        "plots",
    }:
        shutil.rmtree(run_dir, ignore_errors=True)


def _write_config(cli: RecipeCLI) -> None:
    """Saves what was asked for; for a continued run beside the first settings, saying what changed."""
    assert cli.run_dir is not None
    text = cli.resolved()
    path = cli.run_dir / runs.CONFIG
    if cli.resumed is None:
        runs.write_text(path, text)
        about = {
            "command": ["lmrecipes", "fit", *sys.argv[2:]],
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "lmrecipes": __version__,
            "torch": torch.__version__,
            "lightning": lightning.__version__,
            "python": platform.python_version(),
        }
        runs.write_text(cli.run_dir / "run.json", json.dumps(about, indent=2) + "\n")
        return
    before = published.flatten(yaml.safe_load(path.read_text()))
    after = published.flatten(yaml.safe_load(text))
    changed = [key for key in sorted(before | after) if before.get(key) != after.get(key)]
    if changed:
        _say("continuing with changed settings (yours win over the checkpoint's):")
        for key in changed:
            _say(f"  {key}: {before.get(key)} -> {after.get(key)}")
        number = len(list(cli.run_dir.glob("config.*.yaml"))) + 1
        path.rename(cli.run_dir / f"config.{number}.yaml")
        runs.write_text(path, text)


def validate(argv: list[str]) -> int:
    """Evaluates on the validation split."""
    return _evaluate("validate", argv)


def test(argv: list[str]) -> int:
    """Evaluates on the test split and sets the published figures beside."""
    return _evaluate("test", argv)


def _evaluate(command: str, argv: list[str]) -> int:
    cli = _open(command, argv)
    checkpoint = _checkpoint(cli)
    run = getattr(cli.trainer, command)
    began = time.perf_counter()
    figures = run(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint, verbose=False)[0]
    elapsed = time.perf_counter() - began
    settings = published.flatten(yaml.safe_load(cli.resolved()))
    for name, value in sorted(figures.items()):
        _say(f"{name:<24}{value:.4f}")
    for line in published.compare(cli.published, figures, settings):
        _say(line)
    if cli.run_dir is not None and runs.is_main_process():
        result = {
            "command": command,
            "metrics": figures,
            "checkpoint": str(checkpoint),
            "data": settings.get("data.class_path"),
            "batch": {key: value for key, value in settings.items() if key.startswith("batch.")},
            "published": [vars(t) | {"differences": published.differences(t, settings)} for t in cli.published],
            "elapsed_s": round(elapsed, 3),
            "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        runs.add_result(cli.run_dir, result)
        _say(f"written to {_short(cli.run_dir / runs.RESULTS)}")
    return 0


def _checkpoint(cli: RecipeCLI) -> Path:
    """The checkpoint that --checkpoint names: best, last, or a file.

    Raises:
        ValueError: if there is none, saying what there is.
    """
    asked = cli.config.checkpoint
    if asked not in ("best", "last"):
        if not Path(asked).is_file():
            raise ValueError(f"--checkpoint {asked} is no file; give best, last, or a checkpoint file")
        return Path(asked)
    if cli.run_dir is None:
        raise ValueError("give --run RUN, or --checkpoint FILE with a recipe")
    return _of_run(cli.run_dir, asked)


def _of_run(run_dir: Path, which: str) -> Path:
    folder = run_dir / "checkpoints"
    found = newest_readable(folder, pattern=f"{which}-*.ckpt") or newest_readable(folder)
    if found is None:
        raise ValueError(f"run {_short(run_dir)} has no readable checkpoint in checkpoints/")
    return found


def _weights_file(name: str, root: Path) -> Path:
    return Path(name) if Path(name).is_file() else _of_run(runs.find_run(name, root=root), "best")


def prepare(argv: list[str]) -> int:
    """Downloads, tokenizes and caches a recipe's data; training then needs no network."""
    cli = _open("prepare", argv)
    cli.datamodule.prepare(progress=sys.stderr.isatty())
    _say(f"prepared: {cli.datamodule.vocab_size:,} different tokens")
    return 0


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _say(text: str) -> None:
    if runs.is_main_process():
        print(text, flush=True)
