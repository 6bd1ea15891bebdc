"""`lmrecipes validate` and `lmrecipes test`: figures of a run, beside the published ones."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lmrecipes.callbacks.throughput import Countable
from lmrecipes.checkpoints.weights import naming_misfits
from lmrecipes.cli import open_recipe
from lmrecipes.commands.common.report import check_evaluation, report
from lmrecipes.runtime.console import short
from lmrecipes.strategies.checks import data_parallel_size


def evaluate(command: str, argv: list[str]) -> int:
    """Evaluates on the validation (validate) or test (test) split."""
    split = {"validate": "val"}.get(command, command)
    cli = open_recipe(command, argv)
    checkpoint: Path | None = cli.checkpoint()
    if cli.config.runtime is not None:
        cli.model.use_programs(Path(cli.config.runtime), split)
        checkpoint = None
    check_evaluation(cli, command)
    counted = _CountTokens()
    cli.trainer.callbacks.append(counted)  # type: ignore[attr-defined]
    began = time.perf_counter()
    method = getattr(cli.trainer, command)
    with naming_misfits(cli.model, checkpoint, f"--checkpoint {short(checkpoint)}" if checkpoint else ""):
        figures = method(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint, verbose=False)[0]
    elapsed = time.perf_counter() - began
    figures = {**figures, f"{split}/tokens_per_s": counted.tokens * data_parallel_size(cli.trainer) / elapsed}
    report(cli, command, figures, checkpoint, elapsed)
    return 0


class _CountTokens(Callback):
    """Counts the tokens that this process evaluates."""

    tokens = 0

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Counts a batch of validation text."""
        self._add(pl_module, batch)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Counts a batch of test text."""
        self._add(pl_module, batch)

    def _add(self, module: Any, batch: Any) -> None:
        if isinstance(module, Countable) and getattr(batch, "scored", True):
            self.tokens += module.count(batch)[1]
