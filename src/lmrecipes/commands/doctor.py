"""`lmrecipes doctor`: checks this machine or SLURM job, with one fix per problem."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lmrecipes.cli import Command, open_recipe
from lmrecipes.commands import test
from lmrecipes.commands.common.parser import Arguments
from lmrecipes.config.arguments import config_files, expand_names
from lmrecipes.config.errors import ConfigError
from lmrecipes.config.hardware import check_hardware
from lmrecipes.datamodules.protocols import ListsFiles
from lmrecipes.diagnostics import slurm
from lmrecipes.diagnostics.machine import Finding, machine
from lmrecipes.runtime.console import say

# Parses the recipe only.
COMMAND = Command(name="doctor", builds=frozenset(), uses_devices=False, run_option="")


def run(argv: list[str]) -> int:
    """Runs all checks; returns 1 if there is a problem."""
    parser = Arguments(
        prog="lmrecipes doctor",
        usage="lmrecipes doctor [--config RECIPE [overrides]] [--timeout_s SECONDS] [--runs_root FOLDER]",
        description="Checks this machine or SLURM job, with a fix for each problem. Under srun, also checks that all "
        "tasks can connect.",
        epilog="With --config RECIPE, and overrides as for `lmrecipes fit`, checks that the recipe fits both.",
    )
    parser.add_argument("--timeout_s", type=float, default=30.0, help="how long tasks wait for each other")
    parser.add_argument("--runs_root", type=Path, default=Path("runs"), help="folder of all runs")
    options, rest = parser.parse_known_args(argv)
    trainer = None
    if config_files(expand_names(rest)) or rest:
        trainer = open_recipe(COMMAND, rest).config.trainer
    findings = list(machine(options.runs_root))
    job: list[Finding] = []
    if "SLURM_JOB_ID" in os.environ:
        job = list(slurm.job(*(_wanted(trainer) if trainer is not None else (None, None))))
    if trainer is not None:
        # In a mismatched SLURM job Lightning would raise about the job, not the recipe.
        findings += _recipe(trainer, rest, whole=all(finding.fix is None for finding in job))
    findings += job
    if slurm.tasks() > 1:
        findings = _of_all(findings, options.timeout_s)
    for finding in findings:
        verdict = "PROBLEM" if finding.fix is not None else "note" if finding.note else "ok"
        say(f"{verdict:<9}{finding.what:<16}{finding.found}")
        if finding.fix is not None:
            say(f"{'':<9}{'':<16}fix: {finding.fix}")
    problems = sum(finding.fix is not None for finding in findings)
    say(f"{problems} problem{'s' * (problems != 1)}" if problems else "no problems")
    return 1 if problems else 0


def _recipe(trainer: Any, argv: list[str], whole: bool) -> list[Finding]:
    """Whether a recipe can be trained here, as far as can be checked in this process, and the files that it reads.

    Args:
        trainer: its `trainer:` group.
        argv: the command line that names it.
        whole: whether to build it, rather than only compare it with the machine.
    """
    files: list[Finding] = []
    description = f"{trainer.accelerator}, devices {trainer.devices}, {trainer.precision or '32-true'}"
    try:
        check_hardware(trainer.accelerator, trainer.devices, trainer.precision, trainer.strategy)
        if whole:
            # Build as for a test, which creates no run directory.
            files = _files(open_recipe(test.COMMAND, argv).datamodule)
    except (ConfigError, MisconfigurationException) as error:
        problem, _, fix = str(error).partition("; ")
        return [Finding("recipe", problem, fix=fix or "change it, or run where there is one")]
    return [Finding("recipe", description), *files]


def _files(data: Any) -> list[Finding]:
    """The local files that are read, and those that are passed over."""
    try:
        return [Finding("data", line) for line in data.listing()] if isinstance(data, ListsFiles) else []
    except ValueError as error:
        # What was prepared of it may still be in the cache.
        return [Finding("data", str(error), note=True)]


def _wanted(trainer: Any) -> tuple[int, int | None]:
    """Number of nodes, and of devices per node if the recipe states it."""
    devices = trainer.devices
    if isinstance(devices, list):
        return trainer.num_nodes, len(devices)
    number = str(devices)
    return trainer.num_nodes, int(number) if number.isdigit() else None


def _of_all(findings: list[Finding], seconds: float) -> list[Finding]:
    """This task's findings, and the problems of all connected tasks."""
    meeting, group = slurm.rendezvous(seconds)
    if group is None:
        return [*findings, meeting]
    host = socket.gethostname()
    problems = [Finding(f.what, f"{f.found} (on {host})", f.fix) for f in findings if f.fix is not None]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, problems)
    dist.destroy_process_group()
    fine = [finding for finding in findings if finding.fix is None]
    return [*fine, meeting, *dict.fromkeys(problem for other in gathered for problem in other)]
