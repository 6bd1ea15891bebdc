"""`lmrecipes rehearse`: dry-runs a whole recipe at toy size on CPU, in about a minute."""

from __future__ import annotations

import math
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from lmrecipes import runs
from lmrecipes.callbacks.fault_injection import ASKED_FOR
from lmrecipes.checkpoints.io import load_checkpoint, newest_readable, step_of
from lmrecipes.cli import Command, RecipeCLI, open_recipe
from lmrecipes.commands import test
from lmrecipes.commands.common.parser import Arguments
from lmrecipes.commands.export import EXPORTED, WEIGHTS
from lmrecipes.config.arguments import class_of, config_files, expand_names
from lmrecipes.data import load_vocabulary
from lmrecipes.data.corpora.synthetic_text import write_synthetic
from lmrecipes.datamodules.protocols import Rehearses
from lmrecipes.models.common.protocols import ExportsWeights
from lmrecipes.rehearsal.shrink import EVERY, KILLED_AFTER, STEPS, Spread, full_size_on_cpu, shrink, smallest_spread
from lmrecipes.rehearsal.stages import StageError, Stages
from lmrecipes.runtime import launcher
from lmrecipes.runtime.console import say
from lmrecipes.runtime.launcher import forget_launcher
from lmrecipes.strategies.checks import data_parallel_size

# Parses the recipe only: building it comes after shrinking.
COMMAND = Command(name="rehearse", builds=frozenset(), uses_devices=False, run_option="")


def run(argv: list[str]) -> int:
    """Rehearses; returns 1 if a stage failed."""
    parser = Arguments(
        prog="lmrecipes rehearse",
        usage="lmrecipes rehearse --config RECIPE [overrides] [--keep] [--stage_timeout_s SECONDS]",
        description="Dry-runs a recipe at toy size on CPU: builds it at full size, then runs train, validate, "
        "checkpoint, kill, resume, test and export, with its own strategy, mesh, precision, callbacks and data.",
        epilog="Takes --config RECIPE and overrides, like `lmrecipes fit`. Writes nothing to runs/.",
    )
    parser.add_argument("--keep", action="store_true", help="keep the rehearsal's files even if every stage passes")
    parser.add_argument("--stage_timeout_s", type=float, default=300.0, help="time limit of each stage")
    options, rest = parser.parse_known_args(argv)
    if not launcher.is_main_process():
        return 0
    if not 0 < options.stage_timeout_s < math.inf:
        raise ValueError(f"--stage_timeout_s is {options.stage_timeout_s:g}; it must be a number of seconds above 0")
    forget_launcher()
    recipe = open_recipe(COMMAND, rest)
    began = time.perf_counter()
    stages = Stages(options.stage_timeout_s)
    # Exit in order, so that stage processes and temporary files are cleaned up.
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    folder = Path(tempfile.mkdtemp(prefix="lmrecipes-rehearse-"))
    try:
        say(f"rehearsing {runs.recipe_of(config_files(expand_names(rest)))} on CPU processes")
        _Rehearsal(yaml.safe_load(recipe.settings()), folder, stages).all()
    finally:
        signal.signal(signal.SIGTERM, before)
        if options.keep or stages.failed:
            say(f"files of the rehearsal: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    total = stages.passed + stages.failed + stages.skipped
    failed = f", {stages.failed} failed, {stages.skipped} not run" if stages.failed else ""
    say(f"{stages.passed} of {total} stages passed{failed} in {time.perf_counter() - began:.0f} s")
    return 1 if stages.failed else 0


class _Rehearsal:
    """The stages of one recipe."""

    def __init__(self, settings: dict[str, Any], folder: Path, stages: Stages) -> None:
        self.settings, self.folder, self.stages = settings, folder, stages
        self.small = folder / "recipe.yaml"
        self.text = ""
        self.uninterrupted, self.killed = folder / "uninterrupted", folder / "killed"

    def all(self) -> None:
        """Every stage in order."""
        do = self.stages.run
        do("configuration", self._configuration)
        do("data", self._data)
        do("steps, validation, save", self._train)
        do("kill in a step", self._kill)
        do("resume to the end", self._resume)
        do("bit-identical weights", self._compare)
        do("test", self._test)
        do("export", self._export)

    def _configuration(self) -> str:
        """Builds the recipe at full size, except for its hardware, then shrinks it."""
        full = self.folder / "full.yaml"
        full.write_text(yaml.safe_dump(full_size_on_cpu(self.settings), sort_keys=False))
        built = open_recipe(test.COMMAND, ["--config", str(full), "--no_runtime_tuning"])
        ranks = data_parallel_size(built.trainer)
        _check_evaluation(built, ranks)
        strategy = self.settings["trainer"]["strategy"]
        trainer = built.trainer
        spread = smallest_spread(trainer.strategy, strategy, trainer.num_devices, trainer.num_nodes)
        accumulation = built.config_init.batch.accumulation(ranks)
        text, cache = self.folder / "text", self.folder / "cache"
        small = shrink(self.settings, spread, accumulation, text, cache)
        self.small.write_text(yaml.safe_dump(small, sort_keys=False))
        data = built.datamodule
        self.text = data.write_synthetic(text) if isinstance(data, Rehearses) else write_synthetic(text)
        return self._summary(spread, trainer.world_size, accumulation, small)

    def _summary(self, spread: Spread, world_size: int, accumulation: int, small: dict[str, Any]) -> str:
        full, tiny = self.settings["trainer"], small["trainer"]
        name = full["strategy"] if isinstance(full["strategy"], str) else full["strategy"]["class_path"]
        parts = [f"{name.rpartition('.')[2]} over {spread.devices} of {world_size} processes"]
        precision = f"{tiny['precision'] or '32-true'}"
        parts.append(precision if tiny["precision"] == full["precision"] else f"{precision} for {full['precision']}")
        if accumulation > 1:
            parts.append(f"accumulating 2 of {accumulation} micro-batches")
        return ", ".join(parts)

    def _data(self) -> str:
        self.stages.command("prepare", "--config", str(self.small))
        return self.text

    def _train(self) -> str:
        self.stages.command("fit", "--config", str(self.small), "--run_dir", str(self.uninterrupted))
        self._last(self.uninterrupted, STEPS)
        log = self.uninterrupted / "metrics.csv"
        if log.is_file() and "val/" not in log.read_text().partition("\n")[0]:
            raise StageError("metrics.csv has no validation metric")
        kept = ", ".join(sorted(path.stem for path in (self.uninterrupted / "checkpoints").glob("*.ckpt")))
        vocabulary = load_vocabulary(self.uninterrupted / runs.VOCABULARY).size
        return f"{STEPS} steps, {vocabulary} different tokens, {kept}"

    def _kill(self) -> str:
        self.stages.command(
            *("fit", "--config", str(self.small), "--run_dir", str(self.killed)),
            code=-signal.SIGKILL,
            variables={ASKED_FOR: "1"},
        )
        return f"SIGKILL in step {KILLED_AFTER + 1}; {self._last(self.killed, EVERY).stem} is complete"

    def _last(self, run_dir: Path, min_step: int) -> Path:
        """The newest checkpoint that can be read.

        Raises:
            StageError: if there is none with so many steps.
        """
        checkpoint = newest_readable(run_dir / "checkpoints")
        if checkpoint is None or step_of(checkpoint) < min_step:
            actual = f"only of step {step_of(checkpoint)}" if checkpoint else "none"
            raise StageError(f"expected a checkpoint of step {min_step}, found {actual}")
        return checkpoint

    def _resume(self) -> str:
        self.stages.command("fit", "--resume", str(self.killed))
        return self._last(self.killed, STEPS).stem

    def _compare(self) -> str:
        one, other = (
            load_checkpoint(self._last(run, STEPS))["state_dict"] for run in (self.uninterrupted, self.killed)
        )
        differing = [name for name in one if name not in other or not torch.equal(one[name], other[name])]
        if differing or one.keys() != other.keys():
            names = differing or sorted(other.keys() - one.keys())
            raise StageError(f"{len(names)} of {len(one)} tensors differ, the first is {names[0]}")
        return f"{len(one)} tensors, bit by bit"

    def _test(self) -> str:
        self.stages.command("test", "--run", str(self.killed))
        results = yaml.safe_load((self.killed / runs.RESULTS).read_text())
        name, value = next(iter(results[-1]["metrics"].items()))
        return f"{name} {value:.3f}"

    def _export(self) -> str:
        kind = class_of(self.settings["model"]["class_path"])
        if not issubclass(kind, ExportsWeights):
            return f"skipped: {kind.__name__} is not exported, it has no example()"
        self.stages.command("export", "--run", str(self.killed), "--format", "state_dict")
        size = (self.killed / EXPORTED / WEIGHTS).stat().st_size
        return f"{WEIGHTS}, {size / 1e6:.1f} MB"


def _check_evaluation(built: RecipeCLI, ranks: int) -> None:
    """Refuses evaluation batches that do not divide over the recipe's own number of processes.

    Raises:
        ValueError: naming the field.
    """
    for split in ("val", "test"):
        columns = built.config_init.batch.for_split(split).batch_size
        if columns % ranks:
            raise ValueError(
                f"batch.{split}.batch_size is {columns} and does not divide over {ranks} processes; "
                f"{-(-columns // ranks) * ranks} would"
            )
