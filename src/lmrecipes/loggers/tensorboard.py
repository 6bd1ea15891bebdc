"""A run in TensorBoard."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger as Lightnings
from lightning.pytorch.utilities import rank_zero_only

from lmrecipes import runs
from lmrecipes.loggers.run_logger import RunLogger, require
from lmrecipes.runtime.disk_space import explain, refusal


class TensorBoardLogger(RunLogger, Lightnings):
    """Writes `<run directory>/tensorboard`; a resumed run continues its curves."""

    def __init__(self) -> None:
        require("tensorboard", "logger TensorBoardLogger")
        super().__init__(save_dir="tensorboard", name="", version="", default_hp_metric=False)
        self._config = ""
        self._refused = False

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

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Logs metrics, until the disk takes no more."""
        if not self._refused:
            with self._giving_up():
                super().log_metrics(metrics, step)

    @rank_zero_only
    def save(self) -> None:
        """Flushes the logged metrics."""
        if self._experiment is not None and not self._refused:
            with self._giving_up():
                self._experiment.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Closes the file."""
        if not self._refused:
            with self._giving_up():
                super().finalize(status)

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        """Gives the file up on a disk that takes no more: its writer has ended, and training goes on."""
        try:
            yield
        except OSError as error:
            if (refused := refusal(error)) is None:
                raise
            self._refused = True
            why = explain(refused, Path(self.log_dir))
            print(f"warning: TensorBoard's file is not continued: {why}; training goes on", file=sys.stderr)

    def forget_after(self, step: int) -> None:
        """Tells TensorBoard to discard steps that a resume repeats."""
        if self._experiment is not None:
            self._experiment.close()
            self._experiment = None
        self._kwargs["purge_step"] = step + 1
