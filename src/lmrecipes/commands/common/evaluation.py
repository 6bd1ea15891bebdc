"""`lmrecipes validate` and `lmrecipes test`: metrics of a run, next to the published ones."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser

from lmrecipes.checkpoints.weights import naming_mismatches
from lmrecipes.cli import Command, open_recipe
from lmrecipes.commands.common.load_model import use_exported
from lmrecipes.commands.common.options import add_exported, add_run
from lmrecipes.commands.common.report import check_evaluation, report
from lmrecipes.models.common.protocols import Countable
from lmrecipes.runtime.console import quoted
from lmrecipes.strategies.checks import data_parallel_size


def add_options(parser: LightningArgumentParser) -> None:
    """Options of the run and of exported programs."""
    add_run(parser)
    add_exported(parser)


def evaluate(command: Command, argv: list[str]) -> int:
    """Evaluates on the command's split."""
    assert command.split is not None
    cli = open_recipe(command, argv)
    checkpoint: Path | None = cli.checkpoint()
    if cli.config.exported is not None:
        use_exported(cli.model, cli.config.exported, command.split)
        checkpoint = None
    check_evaluation(cli)
    counted = _CountTokens()
    cli.trainer.callbacks.append(counted)  # type: ignore[attr-defined]
    began = time.perf_counter()
    method = getattr(cli.trainer, command.name)
    with naming_mismatches(cli.model, checkpoint, f"--checkpoint {quoted(checkpoint)}" if checkpoint else ""):
        metrics = method(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint, verbose=False)[0]
    elapsed = time.perf_counter() - began
    metrics = {**metrics, f"{command.split}/tokens_per_s": counted.tokens * data_parallel_size(cli.trainer) / elapsed}
    report(cli, command.name, metrics, checkpoint, elapsed)
    return 0


class _CountTokens(Callback):
    """Counts the tokens that this process evaluates."""

    tokens = 0

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Counts the tokens of a batch."""
        if isinstance(pl_module, Countable) and getattr(batch, "scored", True):
            self.tokens += pl_module.count(batch)[1]

    on_validation_batch_end: Any = on_test_batch_end
