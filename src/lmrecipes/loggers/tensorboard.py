"""A run in TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger as Lightnings
from lightning.pytorch.utilities import rank_zero_only

from lmrecipes import runs
from lmrecipes.loggers.run_logger import RunLogger, require


class TensorBoardLogger(RunLogger, Lightnings):
    """Writes `<run directory>/tensorboard`; a resumed run continues its curves."""

    def __init__(self) -> None:
        require("tensorboard", "logger TensorBoardLogger")
        super().__init__(save_dir="tensorboard", name="", version="", default_hp_metric=False)
        self._config = ""

    def begin(self, run_dir: Path, config: str) -> None:
        """Sets the folder."""
        runs.note(run_dir / "tensorboard")
        self._root_dir = str(run_dir / "tensorboard")
        self._config = config

    @property
    def experiment(self) -> Any:
        """Torch's SummaryWriter, with the configuration as its first text."""
        new = self._experiment is None
        writer = super().experiment
        if new and self._experiment is not None and self._config:
            indented = "\n".join(f"    {line}" for line in self._config.splitlines())
            writer.add_text("config", indented)
            self._config = ""
        return writer

    def log_hyperparams(self, params: Any, metrics: Any = None, step: Any = None) -> None:
        """No-op: the whole configuration is logged already."""

    @rank_zero_only
    def save(self) -> None:
        """Flushes the logged metrics."""
        if self._experiment is not None:
            self._experiment.flush()

    def forget_after(self, step: int) -> None:
        """Tells TensorBoard to discard steps that a resume repeats."""
        if self._experiment is not None:
            self._experiment.close()
            self._experiment = None
        self._kwargs["purge_step"] = step + 1
